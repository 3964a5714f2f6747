"""Rows of a jsonl or parquet file or a Hugging Face data set, with errors that name the place and the fix."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .hints import nearest
from .hub_rows import is_data_set, read_data_set

Row = dict[str, Any]
NameT = TypeVar("NameT")  # of columns: one name, or several


def read_rows(path: str | Path, *, subset: str | None = None, split: str | None = None) -> list[Row]:
    """All rows of a `.jsonl` or `.parquet` file, in file order, or of one split of a Hugging Face data set.

    A folder, or a name that is not a file's, is read as a data set (`read_data_set`).

    Raises:
        FileNotFoundError: when there is no such file or data set.
        ImportError: for a data set without the extra `[datasets]`.
        ValueError: for another file type, a line that is not a JSON object, no rows, or a wrong subset or split.
    """
    file = Path(path).expanduser()
    if not file.is_file() and is_data_set(str(path)):  # a file wins over a data set of the same name
        return _not_empty(read_data_set(str(path), subset, split), path)
    if subset is not None or split is not None:
        raise ValueError(f"subset and split choose from a Hugging Face data set: {str(path)!r} names a file")
    if not file.is_file():
        hint = _nearest_file(file)
        raise FileNotFoundError(f"no data set at {str(path)!r} (looked for {file.absolute()}).{hint}")
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if file.suffix not in readers:
        raise ValueError(f"data set {str(path)!r} must end in .jsonl or .parquet, got {file.suffix or 'no ending'!r}")
    return _not_empty(readers[file.suffix](file), path)


def _not_empty(rows: list[Row], path: str | Path) -> list[Row]:
    if not rows:
        raise ValueError(f"data set {str(path)!r} has no rows: give a file with at least one problem")
    return rows


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


def require_columns(rows: Sequence[Row], columns: Mapping[str, str], path: str | Path) -> None:
    """Checks that every row has a value in every column.

    Raises:
        ValueError: with the column, the columns of the file, the nearest of them and the setting that chooses another.
    """
    known = list(map(str, rows[0]))  # the first row stands for all; below, each row is checked for values
    for meaning, column in columns.items():
        if column not in rows[0]:
            raise ValueError(
                f"data set {str(path)!r} has no column {column!r}{nearest(column, known, cutoff=0.5) or '.'} Columns "
                f"found: {', '.join(known)}. Choose with columns={{{meaning!r}: '<column>'}}."
            )
        for number, row in enumerate(rows):
            if row.get(column) is None or not str(row[column]).strip():
                raise ValueError(
                    f"data set {str(path)!r} has no {column!r} in row {number}: fill it in or drop the row"
                )


def _nearest_file(file: Path) -> str:
    """` Did you mean 'folder/train.jsonl'?` for the file of the same folder with the closest name, or ""."""
    names = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
    close = difflib.get_close_matches(file.name, names, n=1)
    return f" Did you mean {str(file.parent / close[0])!r}?" if close else ""


def _read_jsonl(file: Path) -> list[Row]:
    rows: list[Row] = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as failure:
                raise ValueError(f"{file}, line {number} is not JSON: {failure.msg}") from failure
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number} must be a JSON object, got {type(row).__name__}")
            rows.append(row)
    return rows


def _read_parquet(file: Path) -> list[Row]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as failure:
        raise ImportError(
            "reading .parquet needs pyarrow: pip install pyarrow, or convert the file to .jsonl"
        ) from failure
    try:
        return parquet.read_table(file).to_pylist()
    except OSError as failure:  # ArrowInvalid is a ValueError already
        raise ValueError(f"{file} is no parquet file: {failure}") from failure
