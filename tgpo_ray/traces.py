"""Prompts with responses from a jsonl or parquet file, tokenized once, as batches for the learners."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from tgpo_ray.config import ConfigError
from tgpo_ray.env_runner_group import SampledGroup
from tgpo_ray.episode import ORIGIN_TEACHER, Episode, EpisodeGroup, Task


@dataclass
class TraceData:
    """Tokenized rows and the seeded order in which epochs walk them."""

    episodes: list[Episode]
    seed: int
    shuffle: bool
    num_skipped: int = 0  # rows longer than data.max_tokens

    def __len__(self) -> int:
        return len(self.episodes)

    @classmethod
    def read(cls, config: Any) -> TraceData:
        """Rows of `config.data`, tokenized with the policy's tokenizer.

        Raises:
            ConfigError: no file, no such column, no rows, or all rows longer than `data.max_tokens`.
        """
        from transformers import AutoTokenizer

        data = config.data
        rows = read_rows(data.path, (data.prompt_column, data.response_column))
        tokenizer = AutoTokenizer.from_pretrained(config.model.tokenizer or config.model.path)
        episodes = [
            trace_episode(tokenizer, row[data.prompt_column], row[data.response_column], index)
            for index, row in enumerate(rows)
        ]
        fitting = [e for e in episodes if len(e.prompt_ids) + len(e.response_ids) <= data.max_tokens]
        if not fitting:
            raise ConfigError(
                [f"data.max_tokens: every row of {data.path} has more than {data.max_tokens} tokens: raise it"]
            )
        return cls(fitting, config.seed, data.shuffle, len(episodes) - len(fitting))

    def batch(self, step: int, size: int, num_groups: int) -> list[SampledGroup]:
        """Rows number step * size, ... of the endless walk over epochs, in one group a learner."""
        episodes = [self.episodes[self._row(step * size + i)] for i in range(size)]
        hands = [tuple(episodes[i::num_groups]) for i in range(min(num_groups, size))]
        return [
            SampledGroup(i, Task(0, 0, 0, i), tuple(episode.info() for episode in hand), ray.put(EpisodeGroup(hand)))
            for i, hand in enumerate(hands)
        ]

    def _row(self, count: int) -> int:
        epoch, position = divmod(count, len(self.episodes))
        if not self.shuffle:
            return position
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, 3, epoch]).permutation(len(self.episodes))
        return int(self._order[position])


def trace_episode(tokenizer: Any, prompt: str, response: str, index: int) -> Episode:
    """One row as an Episode written by the teacher; the response ends with the end-of-sequence id."""
    ids = tokenizer.encode(response, add_special_tokens=False)
    response_ids = np.asarray([*ids, tokenizer.eos_token_id], np.int32)
    return Episode(
        prompt_ids=np.asarray(tokenizer.encode(prompt, add_special_tokens=True), np.int32),
        response_ids=response_ids,
        origin=np.full(len(response_ids), ORIGIN_TEACHER, np.uint8),
        reward=0.0,
        outcome="correct",
        stop_reason="stop",
        env_id="data",
        problem_index=index,
        seed=0,
        weights_version=0,
    )


def read_rows(path: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of a jsonl or parquet file, with these columns in each.

    Raises:
        ConfigError: no file, an unreadable one, none of a column's name, or no rows.
    """
    import pandas

    read_json: Any = pandas.read_json

    file = Path(path).expanduser()
    if not path or not file.is_file():
        raise ConfigError([f"data.path: no such file: {path!r} (relative to {Path.cwd()})"])
    try:
        frame = (
            pandas.read_parquet(file)
            if file.suffix == ".parquet"
            else read_json(file, lines=True, dtype=False, convert_dates=False)
        )
    except ValueError as error:
        raise ConfigError([f"data.path: {path} is not readable as {file.suffix or 'jsonl'}: {error}"]) from error
    if frame.empty:
        raise ConfigError([f"data.path: {path} has no rows"])
    found = [str(name) for name in frame.columns]
    problems = []
    for key, column in zip(("data.prompt_column", "data.response_column"), columns, strict=True):
        if column not in found:
            near = difflib.get_close_matches(column, found, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(f"{key}: {path} has no column {column!r}{hint} It has: {', '.join(found)}")
    if problems:
        raise ConfigError(problems)
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
