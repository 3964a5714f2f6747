"""Rows of a jsonl or parquet file or a Hugging Face data set, with errors that name the place and the fix."""

from __future__ import annotations

import codecs
import difflib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .cells import is_missing, naming, text_cell
from .hints import nearest
from .hub_rows import is_data_set, open_data_set
from .row_store import Row, Rows, shared, version_of

PARQUET_BATCH = 1024  # rows that are read at once

PROBLEM = "problem"  # the meaning of the column that becomes the prompt

BYTE_ORDER_MARK = "\ufeff"
BYTE_ORDER_MARKS = {  # the longer first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}

NameT = TypeVar("NameT")  # of columns: one name, or several


def read_rows(
    path: str | Path, *, subset: str | None = None, split: str | None = None, columns: Collection[str] | None = None
) -> Rows:
    """Returns the rows of a `.jsonl` or `.parquet` file, or of one split of a Hugging Face data set, in file order.

    A folder, or a name that is not a file's, is read as a data set (`open_data_set`). A process reads a file once:
    another call with the same arguments returns the same rows, until the file's size or time of change differs.

    Args:
        columns: the columns to store. A column that the file lacks is left out. None: all.

    Raises:
        FileNotFoundError: when there is no such file or data set.
        ImportError: for a data set without the extra `[datasets]`.
        ValueError: for another file type, a line that is not a JSON object, no rows, or a wrong subset or split.
    """
    versioned, read = _source(path, subset, split)
    return _shared(path, subset, split, columns, versioned, read)


def stream_rows(path: str | Path, *, subset: str | None = None, split: str | None = None) -> Iterator[Row]:
    """Yields the rows that `read_rows` returns, one after the other; none is stored.

    Raises:
        FileNotFoundError, ImportError, ValueError: as `read_rows`, at the first row.
    """
    _, read = _source(path, subset, split)
    yield from read()


def _source(path: str | Path, subset: str | None, split: str | None) -> tuple[Path | None, Callable[[], Iterable[Row]]]:
    """The file or folder whose change makes the rows stale (a name on the hub has none), and what reads them."""
    file = Path(path).expanduser()
    if not file.is_file() and is_data_set(str(path)):  # a file wins over a data set of the same name
        return (file if file.is_dir() else None), lambda: open_data_set(str(path), subset, split)
    if subset is not None or split is not None:
        raise ValueError(f"subset and split choose from a Hugging Face data set: {str(path)!r} names a file")
    if not file.is_file():
        hint = _nearest_file(file)
        raise FileNotFoundError(f"no data set at {str(path)!r} (looked for {file.absolute()}).{hint}")
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if file.suffix not in readers:
        raise ValueError(f"data set {str(path)!r} must end in .jsonl or .parquet, got {file.suffix or 'no ending'!r}")
    return file, lambda: readers[file.suffix](file)


def _shared(
    path: str | Path,
    subset: str | None,
    split: str | None,
    columns: Collection[str] | None,
    versioned: Path | None,  # the file or folder whose change makes the rows stale; a name on the hub has none
    read: Callable[[], Iterable[Row]],
) -> Rows:
    place = str(versioned.resolve()) if versioned else str(path)
    key = (place, subset, split, None if columns is None else tuple(sorted(columns)))

    def read_rows_of_columns() -> Rows:
        rows = Rows.of(read(), columns)
        if not rows.names:
            raise ValueError(f"data set {str(path)!r} has no rows: give a file with at least one problem")
        return rows

    return shared(key, version_of(versioned) if versioned else None, read_rows_of_columns)


def checked_columns(names: Mapping[str, NameT] | None, wanted: Sequence[str]) -> dict[str, NameT | str]:
    """Column of the file by its meaning. `names` overrides the defaults, which are the meanings themselves.

    Raises:
        ValueError: for a meaning that is not in `wanted`.
    """
    for meaning in names or {}:
        if meaning not in wanted:
            raise ValueError(
                f"columns has the unknown key {meaning!r}{nearest(meaning, wanted, cutoff=0.5)}: it maps {wanted}"
            )
    return {meaning: (names or {}).get(meaning, meaning) for meaning in wanted}


def require_columns(
    rows: Rows, columns: Mapping[str, str], path: str | Path, *, problems_are_text: bool = True
) -> None:
    """Checks that every row has a value in every column.

    Args:
        problems_are_text: refuse a `problem` that is a conversation or anything else but text. False: who parses the
            rows looks at it.

    Raises:
        ValueError: with the column, the columns of the file, the nearest of them and the setting that chooses another.
    """
    known = list(rows.names)  # the first row stands for all; below, each row is checked for values
    for meaning, column in columns.items():
        if not rows.has(column):
            hint = nearest(_head(column), known, cutoff=0.5) or "."
            raise ValueError(
                f"data set {str(path)!r} has no column {column!r}{hint} Columns "
                f"found: {', '.join(known)}. Choose with columns={{{meaning!r}: '<column>'}}."
            )
        for number, value in enumerate(rows.column(column)):
            if is_missing(value):
                raise ValueError(
                    f"data set {str(path)!r} has no {column!r} in row {number}{_instead(rows, column, value)}: fill it "
                    "in or drop the row"
                )
            if problems_are_text and meaning == PROBLEM:
                _check_text(value, column, f"data set {str(path)!r}, row {number}")


def _check_text(value: Any, column: str, where: str) -> None:
    try:
        with naming({PROBLEM: column}):
            text_cell({PROBLEM: value}, PROBLEM)
    except ValueError as failure:
        raise ValueError(f"{where}: {failure}") from failure


def _instead(rows: Rows, column: str, value: Any) -> str:
    """` (it is NaN)`, or what a row that lacks a part must have in its column, or ""."""
    if isinstance(value, float):
        return " (it is NaN)"
    rest = column.partition(".")[2]
    return f" (its {_head(column)!r} has no part {rest!r})" if rest and column not in rows.names else ""


def _head(column: str) -> str:
    return column.partition(".")[0]


def _nearest_file(file: Path) -> str:
    """` Did you mean 'folder/train.jsonl'?` for the file of the same folder with the closest name, or ""."""
    names = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
    close = difflib.get_close_matches(file.name, names, n=1)
    return f" Did you mean {str(file.parent / close[0])!r}?" if close else ""


def _read_jsonl(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(_decoded(lines, file), start=1):
            line = line.removeprefix(BYTE_ORDER_MARK)  # at the start, or within where files were joined
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as failure:
                raise ValueError(f"{file}, line {number} is not JSON: {failure.msg}") from failure
            except (ValueError, RecursionError) as failure:  # a number of thousands of digits; a deep list
                raise ValueError(f"{file}, line {number} cannot be read: {failure}: write it as text") from failure
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number} must be a JSON object, got {type(row).__name__}")
            yield row


def _decoded(lines: Iterable[str], file: Path) -> Iterator[str]:
    """Yields the lines; raises ValueError for a file in another encoding, with its likely name and the fix."""
    try:
        yield from lines
    except UnicodeDecodeError as failure:
        with file.open("rb") as raw:
            start = raw.read(4)
        encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), "LATIN1")
        likely = "begins with the mark of" if encoding != "LATIN1" else "may be"
        raise ValueError(
            f"{file} is not UTF-8 ({failure.reason}: {failure.object[failure.start : failure.start + 1]!r}); it "
            f"{likely} {encoding}: convert it, as with `iconv -f {encoding} -t UTF-8`"
        ) from failure


def _read_parquet(file: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as failure:
        raise ImportError(
            "reading .parquet needs pyarrow: pip install pyarrow, or convert the file to .jsonl"
        ) from failure
    try:
        with parquet.ParquetFile(file) as rows:
            for batch in rows.iter_batches(PARQUET_BATCH):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as failure:
        raise ValueError(f"{file} is no parquet file: {failure}") from failure
