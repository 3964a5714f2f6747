"""Rows of a data set as columns: read once in a process, and shared by all environments that read the same file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar, overload

Row = dict[str, Any]
T = TypeVar("T")


class _Absent(Enum):  # an enum: after unpickling it is still the same object
    """Stands where a row of a jsonl file lacks a key that other rows have."""

    ABSENT = 0


_ABSENT: Any = _Absent.ABSENT


class Rows(Sequence[Row]):
    """The rows of one data set in file order, read-only.

    `rows[i]` is a dict of its own: what a caller changes in it, no other caller sees. The values are stored by column,
    because a dict for each row takes several times their memory.

    Args:
        columns: the values of each column that is stored, one for each row.
        names: all columns of the file, also those that are not stored.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]], names: Collection[str]) -> None:
        self._columns = dict(columns)
        self.names = tuple(names)
        self._length = len(next(iter(columns.values()))) if columns else 0
        self._derived: dict[Hashable, Any] = {}

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], columns: Collection[str] | None = None) -> Rows:
        """Returns the rows of an iterable, which is walked once.

        Args:
            columns: those to store, parts such as `reward_model.ground_truth` included; None: all.
        """
        stored: dict[str, list[Any]] = {name: [] for name in columns or ()}
        names: tuple[str, ...] = ()
        for number, row in enumerate(rows):
            names = names or tuple(map(str, row))
            if columns is None:
                for name in row:
                    if name not in stored:
                        stored[name] = [_ABSENT] * number
            for name, values in stored.items():
                values.append(row.get(name, _ABSENT) if columns is None else part_of(row, name, _ABSENT))
        return cls(stored, names)

    def column(self, name: str) -> Iterator[Any]:
        """Yields the value of each row in one column, None where a row has none. Shared: do not change them."""
        if name not in self._columns:  # a part of one that is stored whole
            return (part_of(row, name) for row in self)
        return (None if value is _ABSENT else value for value in self._columns[name])

    def has(self, name: str) -> bool:
        """Returns whether the file has the column, or for `a.b` the column `a`. The first row stands for all."""
        return name in self.names or name.partition(".")[0] in self.names

    def derived(self, key: Hashable, make: Callable[[], T]) -> T:
        """Returns what `make` returns, made once for each `key`. Parsed rows are an example."""
        with _LOCK:
            if key not in self._derived:
                self._derived[key] = make()
            return self._derived[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_derived": {}}  # can be made again

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        values = {name: column[index] for name, column in self._columns.items()}
        return {name: _private(value) for name, value in values.items() if value is not _ABSENT}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # equal to a list of equal rows, and a list has no hash


def part_of(row: Mapping[str, Any], name: str, absent: Any = None) -> Any:
    """Returns the value of the column `name`, or `absent`.

    `a.b` is the key `b` of the dict in column `a`, and `a.0` the first item of a list there. A column that is called
    `a.b` itself wins.
    """
    if name in row:
        return row[name]
    head, _, rest = name.partition(".")
    value = row.get(head) if rest else None
    if isinstance(value, list):
        value = {str(number): item for number, item in enumerate(value)}
    return part_of(value, rest, absent) if isinstance(value, Mapping) else absent


def _private(value: Any) -> Any:
    """Returns the value, or a copy of one that a caller could change for all."""
    return copy.deepcopy(value) if isinstance(value, list | dict) else value


_LOCK = RLock()  # environments may be made in several threads
_SHARED: dict[Hashable, tuple[Hashable, Rows]] = {}


def shared(key: Hashable, version: Hashable, read: Callable[[], Rows]) -> Rows:
    """Returns what `read` returned for this `key` and `version`, and reads only where the version is new.

    The rows of an older version are forgotten here. Environments that have them keep them.
    """
    with _LOCK:
        entry = _SHARED.get(key)
        if entry is None or entry[0] != version:
            entry = _SHARED[key] = (version, read())
        return entry[1]


def version_of(path: Path) -> Hashable:
    """Returns the sizes and the times of the last change of a file, or of all files in a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
