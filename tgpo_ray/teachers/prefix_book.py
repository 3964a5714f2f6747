"""Labelled responses of the base or the teacher, which join the groups of their prompts to be guided on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tgpo_ray.episode import Episode, EpisodeGroup, EpisodeInfo, Guidance
from tgpo_ray.models import load_tokenizer, local_model
from tgpo_ray.teachers.prefix_file import PrefixFile, PrefixRow
from tgpo_ray.teachers.trace_book import Shelf

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig


class PrefixBook:
    """An actor that adds labelled responses to groups. Their labels are the guidance of `teacher` in each episode.

    Args:
        path: file of `tgpo-ray prefixes`.
        per_group: most responses that join a group. Of more in the file, the task's seed draws them.
    """

    def __init__(self, path: str, per_group: int) -> None:
        self._file, self._per_group = PrefixFile(path), per_group

    def joined(self, group: EpisodeGroup) -> tuple[EpisodeGroup, tuple[EpisodeInfo, ...]]:
        """Returns the group with its prompt's responses as last episodes, and their infos; () where it has none."""
        mate = group.episodes[0]
        rows = self._file.rows(group.prompt_text)
        if len(rows) > self._per_group:  # a resumed run draws the same
            rows = np.random.default_rng(abs(mate.seed)).permutation(rows)[: self._per_group].tolist()
        episodes = tuple(_episode(mate, self._file.row(number)) for number in rows)
        return replace(group, episodes=(*group.episodes, *episodes)), tuple(episode.info() for episode in episodes)

    def stop(self) -> None:
        """Do nothing, because the file is only read."""


def _episode(mate: Episode, row: PrefixRow) -> Episode:
    length = len(row.response_ids)
    return replace(
        mate,
        response_ids=row.response_ids,
        origin=row.origin,
        reward=row.reward,
        outcome=row.outcome,
        stop_reason=row.stop_reason,
        # (T,). It has no pi_old. Zeros give it the shape of its mates' field, and no loss reads them.
        old_logprobs=None if mate.old_logprobs is None else np.zeros(length, np.float32),
        version_changes=np.zeros((0, 2), np.int32),
        turn_ends=np.asarray([length], np.int32),
        turn_rewards=np.asarray([row.reward], np.float32),
        reward_parts={},
        guidance={"teacher": Guidance(teacher_ids=row.label_ids)},
        answer=None,
    )


class PrefixShelf(Shelf):
    """The driver's side of a PrefixBook.

    Args:
        path: file of `tgpo-ray prefixes`.
        written_by: model that its responses must be of, base or teacher; None: either.
        per_group: most responses that join a group.

    Raises:
        ConfigError: the file is missing, is no such file, has no rows, or is of another vocabulary or model.
    """

    def __init__(self, config: AlgorithmConfig, path: str, *, written_by: str | None, per_group: int) -> None:
        folder = local_model(config.model.tokenizer or config.model.path)
        tokenizer = load_tokenizer(folder, trust_remote_code=config.model.trust_remote_code)
        PrefixFile(path).check(tokenizer, written_by)
        absolute = str(Path(path).expanduser().resolve())
        super().__init__(PrefixBook, (absolute, per_group), "the file of guidance.prefix_file")
