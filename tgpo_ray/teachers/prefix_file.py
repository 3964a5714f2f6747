"""The file of labelled responses that `tgpo-ray prefixes` writes, and `guidance.prefixes` trains on.

An Arrow stream, which is mapped into memory: a reader needs the room of the rows that it reads, however many there are.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tgpo_ray.config import ConfigError

SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("response_ids", pa.list_(pa.int32())),  # the policy's ids
        ("origin", pa.list_(pa.uint8())),  # ORIGIN_* of tgpo_ray.episode
        ("label_ids", pa.list_(pa.int32())),  # the teacher's token at each position, -1: none
        ("reward", pa.float32()),
        ("outcome", pa.string()),
        ("stop_reason", pa.string()),
    ]
)
HEADER = b"tgpo_ray.prefixes"
KEY = "guidance.prefix_file"


@dataclass(frozen=True)
class PrefixHeader:
    """What a file says of itself."""

    written_by: str  # base or teacher
    policy: str
    teacher: str
    tokenizer: str  # digest of the policy's vocabulary


def vocabulary_digest(tokenizer: Any) -> str:
    """Returns a digest of the ids of all tokens."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()[:16]


def head_bytes(header: PrefixHeader) -> bytes:
    """Returns the beginning of a file, which is an Arrow stream: rows are appended as they come."""
    metadata = {HEADER: json.dumps(asdict(header)).encode()}
    return SCHEMA.with_metadata(metadata).serialize().to_pybytes()


def row_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns what to append to a file for these rows, each with the columns of SCHEMA; nothing for no rows."""
    if not rows:
        return b""
    return pa.RecordBatch.from_pylist([dict(row) for row in rows], schema=SCHEMA).serialize().to_pybytes()


@dataclass(frozen=True)
class PrefixRow:
    """One labelled response of T tokens."""

    response_ids: np.ndarray  # (T,) int32
    origin: np.ndarray  # (T,) uint8
    label_ids: np.ndarray  # (T,) int32
    reward: float
    outcome: str
    stop_reason: str


class PrefixFile:
    """The rows of a file by their prompt.

    Raises:
        ConfigError: the file is missing, no file of `tgpo-ray prefixes`, or has no rows.
    """

    def __init__(self, path: str) -> None:
        file = Path(path).expanduser()
        if not path or not file.is_file():
            raise ConfigError(
                [f"{KEY}: no such file: {path!r} (relative to {Path.cwd()}); `tgpo-ray prefixes` writes it"]
            )
        try:
            self._table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
            self.header = PrefixHeader(**json.loads(self._table.schema.metadata[HEADER]))
        except (pa.ArrowInvalid, TypeError, KeyError, ValueError) as error:
            message = f"{KEY}: {path} is no file of `tgpo-ray prefixes`: {type(error).__name__}: {error}"
            raise ConfigError([message]) from error
        if not len(self._table):
            raise ConfigError([f"{KEY}: {path} has no rows"])

    @functools.cached_property
    def _rows(self) -> dict[str, list[int]]:
        """The numbers of each prompt's rows. Only the actor that reads rows makes it, not the driver's check."""
        rows: dict[str, list[int]] = {}
        numbers = itertools.count()
        for chunk in self._table.column("prompt").chunks:  # a problem's, so that few texts are in memory at once
            for prompt in chunk.to_pylist():
                rows.setdefault(prompt, []).append(next(numbers))
        return rows

    def __len__(self) -> int:
        return len(self._table)

    def rows(self, prompt: str) -> list[int]:
        """Returns the numbers of the prompt's rows, in the order of the file."""
        return self._rows.get(prompt, [])

    def row(self, number: int) -> PrefixRow:
        """Returns a row."""
        columns = {name: self._table.column(name)[number] for name in SCHEMA.names}
        arrays = {
            name: np.asarray(columns[name].values, dtype)
            for name, dtype in (("response_ids", np.int32), ("origin", np.uint8), ("label_ids", np.int32))
        }
        return PrefixRow(
            **arrays,
            reward=columns["reward"].as_py(),
            outcome=columns["outcome"].as_py(),
            stop_reason=columns["stop_reason"].as_py(),
        )

    def check(self, tokenizer: Any, written_by: str | None) -> None:
        """Raise ConfigError if the file is of another vocabulary, or was written by another model than `written_by`."""
        if self.header.tokenizer != vocabulary_digest(tokenizer):
            raise ConfigError(
                [f"{KEY}: written with the tokenizer of {self.header.policy}, whose ids are not those of `model`: "
                 "write the file again with `tgpo-ray prefixes`"]
            )  # fmt: skip
        if written_by is not None and written_by != self.header.written_by:
            raise ConfigError(
                [f"{KEY}: its responses are the {self.header.written_by}'s, guidance.prefixes says {written_by}: "
                 f"`tgpo-ray prefixes --of {written_by}` writes the other"]
            )  # fmt: skip
