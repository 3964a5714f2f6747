"""Prompts with responses from a jsonl or parquet file, tokenized once, as batches for the learners."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from tgpo_ray.config import ConfigError
from tgpo_ray.episode import ORIGIN_TEACHER, Episode, EpisodeGroup, SampledGroup, Task


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
    def read(cls, config: Any, section: str = "data", max_tokens: int | None = None) -> TraceData:
        """Rows of `config.data` (or another section), tokenized with the policy's tokenizer.

        Args:
            max_tokens: longer rows are left out; None: `max_tokens` of the section.

        Raises:
            ConfigError: no file, no such column, no rows, or all rows too long.
        """
        from transformers import AutoTokenizer

        data = getattr(config, section)
        limit = max_tokens or data.max_tokens
        rows = read_rows(data.path, (data.prompt_column, data.response_column), section)
        tokenizer = AutoTokenizer.from_pretrained(config.model.tokenizer or config.model.path)
        episodes = [
            trace_episode(tokenizer, row[data.prompt_column], row[data.response_column], index)
            for index, row in enumerate(rows)
        ]
        fitting = [e for e in episodes if len(e.prompt_ids) + len(e.response_ids) <= limit]
        if not fitting:
            source = f"{section}.max_tokens" if max_tokens is None else "env_runners.max_response_tokens"
            raise ConfigError([f"{source}: every row of {data.path} has more than {limit} tokens: raise it"])
        return cls(fitting, config.seed, data.shuffle, len(episodes) - len(fitting))

    def batch(self, step: int, size: int, num_groups: int, *, origin: int = ORIGIN_TEACHER) -> list[SampledGroup]:
        """Rows number step * size, ... of the endless walk over epochs, dealt into groups; `origin` of their tokens."""
        episodes = [self.episodes[self._row(step * size + i)] for i in range(size)]
        episodes = [replace(episode, origin=np.full_like(episode.origin, origin)) for episode in episodes]
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


def read_rows(path: str, columns: tuple[str, ...], section: str = "data") -> list[dict[str, Any]]:
    """Rows of a jsonl or parquet file, with a text in each of these columns; `section` is for the messages.

    Raises:
        ConfigError: no file, an unreadable one, no rows, none of a column's name, or something that is not a text.
    """
    file = Path(path).expanduser()
    if not path or not file.is_file():
        raise ConfigError([f"{section}.path: no such file: {path!r} (relative to {Path.cwd()})"])
    try:
        rows = _read_parquet(file) if file.suffix == ".parquet" else _read_jsonl(file)
    except ValueError as error:
        raise ConfigError([f"{section}.path: {path} is not readable as {file.suffix or 'jsonl'}: {error}"]) from error
    if not rows:
        raise ConfigError([f"{section}.path: {path} has no rows"])
    keys = (f"{section}.prompt_column", f"{section}.response_column")
    problems = [
        f"{key}: {problem}" for key, column in zip(keys, columns, strict=True) for problem in _bad(path, rows, column)
    ]
    if problems:
        raise ConfigError(problems)
    return rows


def _bad(path: str, rows: list[dict[str, Any]], column: str) -> Iterator[str]:
    """What is wrong with this column, if anything is."""
    found = list(dict.fromkeys(name for row in rows for name in row))
    if column not in found:
        near = difflib.get_close_matches(column, found, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        yield f"{path} has no column {column!r}{hint} It has: {', '.join(found)}"
        return
    for number, row in enumerate(rows):
        if not isinstance(row.get(column), str):
            yield f"{column!r} of row {number} of {path} is {row.get(column)!r}, it must be a text"
            return


def _read_jsonl(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:  # not splitlines: a text may hold separators of its own
        rows = [json.loads(line) for line in lines if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("each line must be an object with the columns as its keys")
    return rows


def _read_parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(file).to_pylist()
