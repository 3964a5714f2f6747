"""Folders on a disk or behind a URI (s3://, gs://, ...), through pyarrow's file systems."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pyarrow.fs

Place = tuple[pyarrow.fs.FileSystem, str]  # a file system and a path on it
CHUNK = 8 * 2**20  # bytes of a file that are in memory at a time


def absolute(path: str) -> str:
    """Returns a URI unchanged and any other path as an absolute one. Ray's workers have other working folders."""
    return path if is_uri(path) else str(Path(path).expanduser().resolve())


def is_uri(path: str) -> bool:
    """Returns whether `path` is a URI, as s3://bucket/runs or file:///mnt/runs."""
    return "://" in path


def join(path: str, *names: str) -> str:
    """Returns the path of something in a folder. The options of a URI (`?endpoint_override=...`) stay at its end."""
    before, mark, options = path.partition("?") if is_uri(path) else (path, "", "")
    return "/".join([before.rstrip("/"), *names]) + mark + options


def parent(path: str) -> str:
    """Returns the folder that `path` is in."""
    before, mark, options = path.partition("?") if is_uri(path) else (path, "", "")
    return before.rstrip("/").rpartition("/")[0] + mark + options


def name_of(path: str) -> str:
    """Returns the last part of a path."""
    return (path.partition("?")[0] if is_uri(path) else path).rstrip("/").rpartition("/")[2]


def opened(path: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Returns the file system of `path`, and the path on it.

    Raises:
        ValueError: pyarrow does not know the scheme of the URI, or cannot read it.
    """
    path = absolute(path)
    if not is_uri(path) or path.startswith("file:"):
        return pyarrow.fs.FileSystem.from_uri(path)
    before, mark, options = path.partition("?")
    scheme, _, rest = before.partition("://")
    host, _, name = rest.partition("/")
    filesystem, root = _filesystem(f"{scheme}://{host}/{mark}{options}")
    return filesystem, f"{root.rstrip('/')}/{unquote(name)}"


@cache
def _filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of an object store. Making one takes a tenth of a second, and connections are kept in it."""
    return pyarrow.fs.FileSystem.from_uri(uri)


def shown(path: str) -> str:
    """Returns a path for messages, without the password of a URI."""
    return re.sub(r"(?<=://)([^/@:]+):[^/@]+@", r"\1:***@", path)


def copy_folder(source: str, target: str) -> None:
    """Copy a folder with everything in it. Either side may be a URI. Files of the same name are replaced."""
    copy_tree(opened(source), opened(target))


def copy_tree(source: Place, target: Place) -> None:
    """Copy a folder of a file system with everything in it.

    Raises:
        OSError: a file could not be written as a whole. `pyarrow.fs.copy_files` does not say so where the end of an
            upload fails: the object is then missing.
    """
    (source_fs, folder), (target_fs, place) = source, target
    target_fs.create_dir(place, recursive=True)
    for found in source_fs.get_file_info(pyarrow.fs.FileSelector(folder, recursive=True)):
        there = f"{place}/{found.path[len(folder) :].lstrip('/')}"
        if found.type == pyarrow.fs.FileType.Directory:
            target_fs.create_dir(there, recursive=True)
        else:
            _copy_file((source_fs, found.path), (target_fs, there))


def _copy_file(source: Place, target: Place) -> None:
    with source[0].open_input_stream(source[1]) as read, target[0].open_output_stream(target[1]) as written:
        shutil.copyfileobj(read, written, CHUNK)


def read_text(path: str) -> str:
    """Returns the text of a small file.

    Raises:
        FileNotFoundError: there is no file at `path`.
    """
    return read_bytes(path).decode()


def read_bytes(path: str) -> bytes:
    """Returns the content of a file. FileNotFoundError where there is none."""
    filesystem, name = opened(path)
    with filesystem.open_input_stream(name, compression=None) as stream:
        return stream.read()


def write_text(path: str, text: str) -> None:
    """Replace a small file, in a folder that is made where it is missing. A reader sees the old text or the new one.

    On a disk the file is written beside its place and renamed. An object store shows an object when it is whole.
    """
    filesystem, name = opened(path)
    filesystem.create_dir(name.rpartition("/")[0], recursive=True)
    if not isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        with filesystem.open_output_stream(name) as stream:
            stream.write(text.encode())
        return
    temporary = Path(f"{name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(name)
    finally:
        temporary.unlink(missing_ok=True)


def is_folder(path: str) -> bool:
    """Returns whether there is a folder at `path`."""
    return _kind(path) == pyarrow.fs.FileType.Directory


def is_file(path: str) -> bool:
    """Returns whether there is a file at `path`."""
    return _kind(path) == pyarrow.fs.FileType.File


def _kind(path: str) -> pyarrow.fs.FileType:
    filesystem, name = opened(path)
    return filesystem.get_file_info(name).type


def names_in(path: str) -> list[str]:
    """Returns the names of the files and folders in a folder, sorted; none where there is no folder."""
    filesystem, name = opened(path)
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(name, allow_not_found=True))
    return sorted(info.base_name for info in found)


def files_below(path: str) -> dict[str, int]:
    """Returns the size in bytes of each file in a folder and in its folders, by its name relative to the folder."""
    filesystem, name = opened(path)
    selector = pyarrow.fs.FileSelector(name, allow_not_found=True, recursive=True)
    found = [info for info in filesystem.get_file_info(selector) if info.type == pyarrow.fs.FileType.File]
    return {info.path[len(name.rstrip("/")) + 1 :]: info.size for info in found}


def delete(path: str) -> None:
    """Delete a file, or a folder with everything in it. Nothing happens where there is nothing."""
    filesystem, name = opened(path)
    kind = filesystem.get_file_info(name).type
    with contextlib.suppress(FileNotFoundError):
        if kind == pyarrow.fs.FileType.Directory:
            filesystem.delete_dir(name)
        elif kind == pyarrow.fs.FileType.File:
            filesystem.delete_file(name)


def local_path(path: str) -> Path | None:
    """Returns the path on this machine's disks, or None for a URI of another file system."""
    filesystem, name = opened(path)
    return Path(name).resolve() if isinstance(filesystem, pyarrow.fs.LocalFileSystem) else None


def replace_file(source: Path, target: str) -> None:
    """Copy a file to a place in a folder, which is made where it is missing. A reader sees the old file or the new."""
    filesystem, name = opened(target)
    filesystem.create_dir(name.rpartition("/")[0], recursive=True)
    local = isinstance(filesystem, pyarrow.fs.LocalFileSystem)
    place = f"{name}.{uuid.uuid4().hex[:8]}.tmp" if local else name
    try:
        _copy_file((pyarrow.fs.LocalFileSystem(), str(source)), (filesystem, place))
        if local:
            os.replace(place, name)
    finally:
        if local:
            Path(place).unlink(missing_ok=True)
