"""Options of the rows, for environments whose problems come from a file or a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TypeVar

from .options import Options
from .rows import Row, checked_columns, read_rows, require_columns

T = TypeVar("T")


@dataclass(frozen=True)
class SourceOptions(Options):
    """Where the rows are."""

    path: str
    """A jsonl or parquet file, relative to the working folder. Or a Hugging Face data set (extra `[datasets]`): a name
    on the hub such as `openai/gsm8k`, or a folder."""
    _: KW_ONLY
    subset: str | None = None
    """Which configuration of a Hugging Face data set. null: the only one."""
    split: str | None = None
    """Which split of a Hugging Face data set: `train`, or a slice such as `train[:100]`. null: the only one."""

    def read(self) -> list[Row]:
        """All rows in file order. They are shared and never changed.

        Raises:
            FileNotFoundError, ValueError: for a file or data set that is missing or empty.
            ImportError: for a data set without `datasets`.
        """
        return read_rows(self.path, subset=self.subset, split=self.split)

    def parse(self, rows: Sequence[Row], parse_row: Callable[[Row], T]) -> list[T]:
        """`parse_row` of every row.

        Raises:
            ValueError: where `parse_row` raises, with the data set and the number of the row.
        """
        results: list[T] = []
        for number, row in enumerate(rows):
            try:
                results.append(parse_row(row))
            except (ValueError, TypeError, KeyError) as failure:  # what malformed values raise
                raise ValueError(f"data set {self.path!r}, row {number}: {failure}") from failure
        return results


@dataclass(frozen=True, kw_only=True)
class RowOptions(SourceOptions):
    """Where the rows are, and what their columns are called."""

    columns: Mapping[str, str] | None = None
    """The file's names of the columns, by meaning: `{problem: question, answer: final}`."""

    def select(self, rows: Sequence[Row], required: Sequence[str], optional: Sequence[str] = ()) -> list[Row]:
        """The rows with the meanings as keys: `{"problem": ..., "answer": ...}`. A missing optional value is None.

        Raises:
            ValueError: for an unknown key in `columns`, and for rows that lack a required column or have it empty.
        """
        columns = checked_columns(self.columns, (*required, *optional))
        require_columns(rows, {meaning: columns[meaning] for meaning in required}, self.path)
        return [{meaning: row.get(column) for meaning, column in columns.items()} for row in rows]
