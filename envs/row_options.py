"""Options of the rows, for environments whose problems come from a file or a data set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TypeVar

from .cells import is_nan, naming
from .options import Options
from .row_store import Row, Rows
from .rows import checked_columns, read_rows, require_columns

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

    def read(self, columns: Collection[str] | None = None) -> Rows:
        """Returns all rows in file order, shared by all environments of the process. `columns`: those to store.

        Raises:
            FileNotFoundError, ValueError: for a file or data set that is missing or empty.
            ImportError: for a data set without `datasets`.
        """
        return read_rows(self.path, subset=self.subset, split=self.split, columns=columns)

    def parsed(self, rows: Rows, key: Hashable, parse_row: Callable[[Row], T]) -> Sequence[T]:
        """Returns `parse_row` of every row, made once in a process for each `key` and shared: do not change them.

        Args:
            key: what the result depends on beside the rows, such as the function's name and the columns.

        Raises:
            ValueError: where `parse_row` raises, with the data set and the number of the row.
        """

        def parse() -> Sequence[T]:
            results: list[T] = []
            for number, row in enumerate(rows):
                try:
                    results.append(parse_row(row))
                except (ValueError, TypeError, KeyError) as failure:  # what malformed values raise
                    raise ValueError(f"data set {self.path!r}, row {number}: {failure}") from failure
            return results

        return rows.derived(key, parse)


@dataclass(frozen=True, kw_only=True)
class RowOptions(SourceOptions):
    """Where the rows are, and what their columns are called."""

    columns: Mapping[str, str] | None = None
    """The file's names of the columns, by meaning: `{problem: question, answer: final}`. `reward_model.ground_truth` is
    the key `ground_truth` of the column `reward_model`, and `choices.0` the first item of a list."""

    def read_as(
        self, parse_row: Callable[[Row], T], required: Sequence[str], optional: Sequence[str] = ()
    ) -> Sequence[T]:
        """Returns `parse_row` of every row, whose keys are then the meanings: `{"problem": ..., "answer": ...}`.

        Rows are read and parsed once in a process, however many environments ask. A missing optional value is None.

        Args:
            parse_row: a function of a module, so that two environments name the same one.

        Raises:
            ValueError: for an unknown key in `columns`, for rows that lack a required column or have it empty, and
                where `parse_row` raises, also `cells.CellError`.
        """
        rows = self.read(checked_columns(self.columns, (*required, *optional)).values())
        columns = self.column_names(rows, required, optional)

        def parse_named(row: Row) -> T:
            values = {meaning: row.get(column) for meaning, column in columns.items()}
            with naming(columns):
                return parse_row({meaning: None if is_nan(value) else value for meaning, value in values.items()})

        return self.parsed(rows, (parse_row, *columns.items()), parse_named)

    def column_names(self, rows: Rows, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, str]:
        """Returns the file's names of the columns by meaning, checked against the rows once in a process.

        Raises:
            ValueError: for an unknown key in `columns`, and for rows that lack a required column or have it empty.
        """
        columns = checked_columns(self.columns, (*required, *optional))
        needed = {meaning: columns[meaning] for meaning in required}
        key = ("required", *needed.items())
        rows.derived(key, lambda: require_columns(rows, needed, self.path, problems_are_text=False))
        return columns
