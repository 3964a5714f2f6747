"""Rows of a Hugging Face data set: a name on the hub, or a folder. The extra `datasets` is imported on first use."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
FILES = (".jsonl", ".parquet", ".json", ".csv", ".tsv", ".txt", ".gz", ".zst")  # a name on the hub does not end so
SAVED = ("dataset_dict.json", "dataset_info.json")  # written by `save_to_disk`; the first for several splits


def is_data_set(path: str) -> bool:
    """True for a folder, and for what may be a name on the hub: `gsm8k`, `openai/gsm8k`."""
    return Path(path).expanduser().is_dir() or (HUB_NAME.fullmatch(path) is not None and not path.endswith(FILES))


def open_data_set(path: str, subset: str | None, split: str | None) -> Iterable[dict[str, Any]]:
    """The rows of one split, in memory one at a time: `datasets` maps its files.

    Args:
        path: a folder (of jsonl, json, csv or parquet files, or as `save_to_disk` writes one), or a name on the hub.
        subset: the configuration, where there are several.
        split: `train`, `test`, or a slice such as `train[:100]`; None: the only one.

    Raises:
        ImportError: without the extra `[datasets]`.
        FileNotFoundError: when there is no such data set, or the hub cannot be reached.
        ValueError: for a subset or split that is missing or has to be chosen.
    """
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as failure:
        raise ImportError(
            f"{path!r} is no file here; as a Hugging Face data set it needs datasets: pip install 'tgpo-ray[datasets]'"
        ) from failure
    folder = Path(path).expanduser()
    if any((folder / name).is_file() for name in SAVED):
        return _from_disk(datasets, folder, subset, split)
    try:
        data_set = datasets.load_dataset(str(folder) if folder.is_dir() else path, subset, split=split)
    except (FileNotFoundError, ConnectionError, datasets.exceptions.DatasetsError) as failure:
        if folder.is_dir():
            raise FileNotFoundError(f"the folder {path!r} holds no data set: {_line(failure)}") from failure
        raise FileNotFoundError(
            f"{path!r} is neither a file nor a folder here (looked for {folder.absolute()}), nor a Hugging Face data "
            f"set that can be read: {_line(failure)}"
        ) from failure
    except ValueError as failure:
        raise ValueError(f"data set {path!r} (subset={subset!r}, split={split!r}): {_line(failure)}") from failure
    return _one_split(path, data_set)


def _from_disk(datasets: Any, folder: Path, subset: str | None, split: str | None) -> Iterable[dict[str, Any]]:
    if subset is not None:
        raise ValueError(f"data set {str(folder)!r} was written by save_to_disk and has no subsets, got {subset!r}")
    data_set = datasets.load_from_disk(str(folder))
    if split is None:
        return _one_split(str(folder), data_set)
    if not isinstance(data_set, dict) or split not in data_set:
        splits = ", ".join(data_set) if isinstance(data_set, dict) else "none"
        raise ValueError(f"data set {str(folder)!r} has no split {split!r}: it has {splits}")
    return data_set[split]


def _one_split(path: str, data_set: Any) -> Any:
    """The data set itself. `datasets` returns a mapping of splits where none was chosen."""
    if not isinstance(data_set, dict):  # DatasetDict is a dict
        return data_set
    if len(data_set) != 1:
        raise ValueError(f"data set {path!r} has the splits {', '.join(data_set)}: choose one with split=")
    return next(iter(data_set.values()))


def _line(failure: BaseException) -> str:
    return " ".join(str(failure).split())[:500]
