"""Batches for the learners, from prompts and responses in a jsonl or parquet file that is tokenized once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import ray

from tgpo_ray.config import ConfigError
from tgpo_ray.episode import ORIGIN_TEACHER, Episode, EpisodeGroup, SampledGroup, Task
from tgpo_ray.models import end_of_response, load_tokenizer, text_prompt_ids, whole_text

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig
    from tgpo_ray.models import Tokenizer


class WalkedTraces(Protocol):
    """A section with a file of prompts and responses, and the order of its rows."""

    @property
    def path(self) -> str: ...

    @property
    def prompt_column(self) -> str: ...

    @property
    def response_column(self) -> str: ...

    @property
    def shuffle(self) -> bool: ...


@dataclass
class TraceData:
    """Tokenized rows in the seeded order of each epoch."""

    episodes: list[Episode]
    seed: int
    shuffle: bool
    num_skipped: int = 0  # rows longer than the limit
    _epoch: int = -1  # the epoch of `_order`
    _order: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)  # (number of rows,)

    def __len__(self) -> int:
        return len(self.episodes)

    @classmethod
    def read(
        cls,
        config: AlgorithmConfig,
        data: WalkedTraces,
        max_tokens: int,
        *,
        section: str = "data",
        limit_key: str = "data.max_tokens",
    ) -> TraceData:
        """Returns the rows of a file, tokenized with the policy's tokenizer.

        Args:
            max_tokens: limit above which a row is left out.
            section, limit_key: the configuration's keys of the file and of its limit, for messages.

        Raises:
            ConfigError: the file is missing, lacks a column, has no rows, or only rows that are too long.
        """
        rows = read_rows(data.path, (data.prompt_column, data.response_column), section)
        tokenizer = load_tokenizer(
            config.model.tokenizer or config.model.path, trust_remote_code=config.model.trust_remote_code
        )
        end = end_of_response(config.model.path, tokenizer)
        episodes = [
            trace_episode(tokenizer, row[data.prompt_column], row[data.response_column], index, end=end)
            for index, row in enumerate(rows)
        ]
        fitting = [e for e in episodes if len(e.prompt_ids) + len(e.response_ids) <= max_tokens]
        if not fitting:
            raise ConfigError([f"{limit_key}: every row of {data.path} has more than {max_tokens} tokens: raise it"])
        return cls(fitting, config.seed, data.shuffle, len(episodes) - len(fitting))

    def batch(self, step: int, size: int, num_groups: int, *, origin: int = ORIGIN_TEACHER) -> list[SampledGroup]:
        """Returns the next `size` rows of the endless walk over epochs, dealt into groups.

        Args:
            step: number of earlier batches. The first row is number step * size.
            origin: origin of every response token.
        """
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
        if self._epoch != epoch:
            self._epoch = epoch
            # 3 keeps this stream apart from the cursor's, which use 1 and 2
            self._order = np.random.default_rng([self.seed, 3, epoch]).permutation(len(self.episodes))
        return int(self._order[position])


def trace_episode(tokenizer: Tokenizer, prompt: str, response: str, index: int, *, end: int | None = None) -> Episode:
    """Returns one row as an Episode of the teacher.

    Args:
        end: the id behind the response; None: the tokenizer's end of sequence.
    """
    ids = tokenizer.encode(response, add_special_tokens=False)
    response_ids = np.asarray([*ids, tokenizer.eos_token_id if end is None else end], np.int32)
    return Episode(
        prompt_ids=np.asarray(text_prompt_ids(tokenizer, prompt), np.int32),
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
    """Returns the rows of a jsonl or parquet file, with a text in each of these columns.

    Args:
        section: section of the configuration, for messages.

    Raises:
        ConfigError: the file is missing, unreadable or empty, lacks a column, or has a value that is no text.
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
    """Yields the first problem of this column, if it has one."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if column not in columns:
        near = difflib.get_close_matches(column, columns, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        yield f"{path} has no column {column!r}{hint} It has: {', '.join(columns)}"
        return
    for number, row in enumerate(rows):
        value = row.get(column)
        if not isinstance(value, str):
            yield f"{column!r} of row {number} of {path} is {value!r}, it must be a text"
            return
        if whole_text(value) != value:
            yield f"{column!r} of row {number} of {path} has half of a character (a lone surrogate): mend the text"
            return


def _read_jsonl(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:  # not splitlines, which also splits at U+2028
        rows = [json.loads(line) for line in lines if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("each line must be an object with the columns as its keys")
    return rows


def _read_parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(file).to_pylist()
