"""A teacher's verified responses, which join the policy's own in the group of their prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import ray

from tgpo_ray.cluster import actor_of_driver, kill, wait_until_started
from tgpo_ray.config import ConfigError
from tgpo_ray.episode import ORIGIN_TEACHER, Episode, EpisodeGroup, EpisodeInfo, SampledGroup
from tgpo_ray.models import end_of_response, load_tokenizer, local_model
from tgpo_ray.teachers.trace_file import read_rows

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig, ModelConfig, TraceFileConfig


class TraceBook:
    """An actor that has the traces and adds them to groups, so the driver handles no tokens.

    Args:
        rows: prompt, response and reward of each trace. Only the first trace of a prompt is used.
        tokenizer: folder of the policy's tokenizer.
        model: the policy's section, for its end of sequence and for code that its tokenizer needs.
        max_tokens: length at which longer traces are cut. A cut trace has no end of sequence.
    """

    def __init__(
        self,
        rows: Sequence[tuple[str, str, float]],
        tokenizer: str,
        max_tokens: int,
        model: ModelConfig | None = None,
    ) -> None:
        self._tokenizer: Any = load_tokenizer(
            tokenizer, trust_remote_code=model is not None and model.trust_remote_code
        )
        self._end = end_of_response(tokenizer if model is None else model.path, self._tokenizer)
        self._max_tokens = max_tokens
        self._traces: dict[str, tuple[str, float]] = {}
        for prompt, response, reward in rows:
            self._traces.setdefault(prompt, (response, reward))

    def joined(self, group: EpisodeGroup) -> tuple[EpisodeGroup, tuple[EpisodeInfo, ...]]:
        """Returns the group with its prompt's trace as last episode, and that episode's info; () without a trace."""
        trace = self._traces.get(group.prompt_text)
        if trace is None:
            return group, ()
        episode = self._episode(group.episodes[0], *trace)
        return replace(group, episodes=(*group.episodes, episode)), (episode.info(),)

    def prefix(self, prompt: str, share: float) -> np.ndarray:
        """Returns (T,) int32, the first `share` of the prompt's trace without its end, or nothing without a trace."""
        trace = self._traces.get(prompt)
        ids = [] if trace is None else self._tokenizer.encode(trace[0], add_special_tokens=False)[: self._max_tokens]
        return np.asarray(ids[: int(share * len(ids))], np.int32)

    def _episode(self, mate: Episode, response: str, reward: float) -> Episode:
        # no special tokens: a BOS belongs only to the prompt
        ids = [*self._tokenizer.encode(response, add_special_tokens=False), self._end]
        response_ids = np.asarray(ids[: self._max_tokens], np.int32)
        return replace(
            mate,
            response_ids=response_ids,
            origin=np.full(len(response_ids), ORIGIN_TEACHER, np.uint8),
            reward=reward,
            outcome="correct" if reward > 0 else "wrong",
            stop_reason="stop" if len(ids) <= self._max_tokens else "length",
            # (T,). A trace has no pi_old. Zeros give it the shape of its mates' field.
            old_logprobs=None if mate.old_logprobs is None else np.zeros(len(response_ids), np.float32),
            turn_ends=np.asarray([len(response_ids)], np.int32),
            turn_rewards=np.asarray([reward], np.float32),
            reward_parts={},
            guidance={},
        )

    def stop(self) -> None:
        """Do nothing, because the traces end with their process."""


@dataclass(frozen=True)
class Prefixes:
    """The beginnings of responses, which a runner asks for by prompt."""

    book: Any  # actor handle of a TraceBook
    share: float

    def of(self, prompt: str) -> np.ndarray:
        """Returns (T,) int32, the beginning of the prompt's response in the policy's ids."""
        return ray.get(self.book.prefix.remote(prompt, self.share))


class Shelf:
    """The driver's side of an actor that adds episodes to groups, so the driver handles no tokens.

    Args:
        kind: class of the actor. `joined(group)` returns an EpisodeGroup and the infos of the episodes that it added.
        arguments: all that the actor knows, because Ray starts it again with them if its process dies.
        holds: what a message says of it.
    """

    def __init__(self, kind: type, arguments: Sequence[Any], holds: str) -> None:
        self._kind, self._arguments, self._holds = kind, arguments, holds
        self._book: Any = None
        self.num_joined = self.num_asked = 0  # groups since `reset_counts`

    def start(self) -> Self:
        """Returns this shelf, after starting the actor. Ray must be up."""
        self._book = actor_of_driver(self._kind, *self._arguments, max_restarts=-1, max_task_retries=-1)
        return self

    def wait_until_ready(self) -> None:
        """Block until the actor has read its data."""
        wait_until_started([self._book], self._kind.__name__, f"It holds {self._holds}", 600.0)

    def joined(self, group: SampledGroup) -> SampledGroup:
        """Returns the group with the episodes of its prompt, or the same group where its prompt has none."""
        ref, infos_ref = self._book.joined.options(num_returns=2).remote(group.ref)
        infos = ray.get(infos_ref)
        self.num_asked += 1
        if not infos:
            return group
        self.num_joined += 1
        members = group.members
        if members is not None:
            size = ray.get(_size.remote(group.ref))
            members = (*members, *range(size, size + len(infos)))
        return replace(group, infos=(*group.infos, *infos), ref=ref, members=members)

    def reset_counts(self) -> float:
        """Returns the share of groups since the last call whose prompt had episodes."""
        share = self.num_joined / max(1, self.num_asked)
        self.num_joined = self.num_asked = 0
        return share

    def stop(self) -> None:
        """End the actor."""
        if self._book is not None:
            kill([self._book])
            self._book = None


class TraceShelf(Shelf):
    """The driver's side of a TraceBook.

    Raises:
        ConfigError: the file of `traces` is missing, has no rows, or lacks a column.
    """

    def __init__(self, config: AlgorithmConfig, traces: TraceFileConfig) -> None:
        columns = (traces.prompt_column, traces.response_column)
        rows = [(row[columns[0]], row[columns[1]], _reward(row)) for row in read_rows(traces.path, columns, "traces")]
        model = config.model.model_copy(update={"path": local_model(config.model.path)})
        tokenizer = local_model(model.tokenizer or model.path)
        arguments = (rows, tokenizer, config.env_runners.max_response_tokens, model)
        super().__init__(TraceBook, arguments, "the file of `traces`")

    def prefixes(self, share: float) -> Prefixes | None:
        """Returns the prefixes for runners, which are this share of a trace, or None for a share of 0."""
        return Prefixes(self._book, share) if share > 0.0 else None


@ray.remote(num_cpus=0)
def _size(group: EpisodeGroup) -> int:
    return len(group)


def _reward(row: Mapping[str, Any]) -> float:
    """Returns the reward that `tgpo-ray traces` wrote beside the response, or 1.0 for a trace without one."""
    reward = row.get("reward", 1.0)
    if not isinstance(reward, int | float) or not np.isfinite(reward):
        raise ConfigError([f"traces.path: the reward {reward!r} of a row is no finite number"])
    return float(reward)
