"""A model's folder that is replaced as a whole: written beside, moved into place, with nothing of the old one left."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs

from tgpo_ray.cluster.storage import absolute, copy_folder, local_path

# files that a loader of models reads; one that is left from an earlier model would be read with the new one
MODEL_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json", ".jinja", ".model", ".py")
MODEL_NAMES = ("merges.txt", "vocab.txt")
CONFIGS = ("config.json", "adapter_config.json")


def of_a_model(name: str) -> bool:
    """Returns whether a file of this name is part of a model, and so goes with it."""
    return name.endswith(MODEL_SUFFIXES) or name in MODEL_NAMES


def refuse_foreign_folder(path: str) -> None:
    """Refuse to replace a folder that is no model.

    Raises:
        ValueError: there are files of a model's kinds and no config.json or adapter_config.json, or a file of that
            name.
    """
    folder = local_path(path)
    if folder is None or not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"export: {folder} is a file: name a folder")
    foreign = sorted(it.name for it in folder.iterdir() if it.is_file() and of_a_model(it.name))
    if foreign and not any((folder / name).is_file() for name in CONFIGS):
        raise ValueError(
            f"export: {folder} holds {foreign[0]} and no config.json: it is not the folder of a model, which an export "
            "would replace; name a new or an empty folder"
        )


@contextlib.contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder on the disk of `target`, removed at the end unless it was moved into place.

    It is beside the target, or in it where the target is a mount or in a folder that may not be written. A process
    that is killed leaves it, and the next call removes it.
    """
    folder = _new(target)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _recover(target)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new(target: Path) -> Path:
    fixed = target.is_dir() and (os.path.ismount(target) or not os.access(target.parent, os.W_OK))
    return target / ".new" if fixed else target.with_name(f".{target.name}.new")


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _recover(target: Path) -> None:
    """Put back the folder that a killed process had renamed, and remove it where its successor was in place."""
    old = _old(target)
    if old.is_dir() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def move_into_place(folder: Path, target: Path) -> None:
    """Make the staging folder the folder at `target`.

    What was there goes, but for what belongs to no model (README.md, a licence, folders). Between two renamings, and
    only there, the old folder has the name `.<name>.old`. Within a target that cannot be renamed, files are replaced
    one by one.
    """
    if folder.parent == target:
        _move_files(folder, target)
        return
    if target.exists():
        _keep_the_rest(target, folder)
        old = _old(target)
        target.rename(old)
        try:
            folder.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old)
    else:
        folder.rename(target)


def _keep_the_rest(target: Path, folder: Path) -> None:
    for entry in target.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, folder / entry.name, symlinks=True, copy_function=_link_or_copy)
        elif not of_a_model(entry.name):
            _link_or_copy(str(entry), str(folder / entry.name))
    shutil.copymode(target, folder)


def _move_files(folder: Path, target: Path) -> None:
    new = {it.name for it in folder.iterdir()}
    for name in new:
        (folder / name).replace(target / name)
    for entry in target.iterdir():
        if entry.is_file() and of_a_model(entry.name) and entry.name not in new:
            entry.unlink()


def _link_or_copy(source: str, target: str) -> str:
    with contextlib.suppress(OSError):  # a disk without hard links
        os.link(source, target, follow_symlinks=False)
        return target
    return shutil.copy2(source, target)


def copy_over(source: str, target: str) -> None:
    """Copy a model's folder to a URI, and delete there what an earlier model has left."""
    copy_folder(source, target)
    new = {it.name for it in Path(source).iterdir()}
    filesystem, path = pyarrow.fs.FileSystem.from_uri(absolute(target))
    for info in filesystem.get_file_info(pyarrow.fs.FileSelector(path)):
        if info.type == pyarrow.fs.FileType.File and of_a_model(info.base_name) and info.base_name not in new:
            filesystem.delete_file(info.path)
