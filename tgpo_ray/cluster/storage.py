"""Folders on a disk or behind a URI (s3://, gs://, ...), through pyarrow's file systems."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs


def absolute(path: str) -> str:
    """Returns a URI unchanged and any other path as an absolute one. Ray's workers have other working folders."""
    return path if "://" in path else str(Path(path).expanduser().resolve())


def copy_folder(source: str, target: str) -> None:
    """Copy a folder with everything in it. Either side may be a URI. Files of the same name are replaced."""
    source_fs, source_path = pyarrow.fs.FileSystem.from_uri(absolute(source))
    target_fs, target_path = pyarrow.fs.FileSystem.from_uri(absolute(target))
    target_fs.create_dir(target_path, recursive=True)
    pyarrow.fs.copy_files(source_path, target_path, source_filesystem=source_fs, destination_filesystem=target_fs)


def read_text(path: str) -> str:
    """Returns the text of a small file.

    Raises:
        FileNotFoundError: there is no file at `path`.
    """
    filesystem, name = pyarrow.fs.FileSystem.from_uri(absolute(path))
    with filesystem.open_input_stream(name) as stream:
        return stream.read().decode()


def is_folder(path: str) -> bool:
    """Returns whether there is a folder at `path`."""
    filesystem, name = pyarrow.fs.FileSystem.from_uri(absolute(path))
    return filesystem.get_file_info(name).type == pyarrow.fs.FileType.Directory


def local_path(path: str) -> Path | None:
    """Returns the path on this machine's disks, or None for a URI of another file system."""
    filesystem, name = pyarrow.fs.FileSystem.from_uri(absolute(path))
    return Path(name).resolve() if isinstance(filesystem, pyarrow.fs.LocalFileSystem) else None
