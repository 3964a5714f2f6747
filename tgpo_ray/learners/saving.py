"""A checkpoint of all ranks: each writes its files, all agree that every file is there, and Ray Train hears of it."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow.fs
import torch.distributed as dist

from tgpo_ray.cluster import copy_tree


class Saver(Protocol):
    """What writes its part of a checkpoint into a folder. `Learner` does."""

    def save(self, folder: Path) -> None: ...


class CheckpointError(RuntimeError):
    """A checkpoint could not be written. The learners and every earlier checkpoint are as they were.

    Attributes:
        path: where the half is.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} could not be written: {reason}")
        self.path, self.reason = path, reason


def save_checkpoint(learner: Saver, rank: int, name: str, files: Mapping[str, str]) -> str:
    """Returns an empty text after every rank has written its part of the checkpoint `name`, else what went wrong.

    `ray.train.report` with an upload would not come back from a disk that is full: the rank whose upload has failed
    leaves the others in a barrier, and its own next report waits for the one that it lost. So the files are written
    first, and the ranks report only after all of them have them.

    Args:
        files: texts of the driver, which rank 0 adds.
    """
    import ray.train
    from ray.train import Checkpoint, CheckpointUploadMode

    storage: Any = ray.train.get_context().get_storage()
    path = storage.build_checkpoint_path_from_name(name)
    problem = ""
    try:
        _write(learner, rank, storage, path, files)
    except Exception as error:  # what torch, DeepSpeed and file systems raise
        traceback.print_exc()
        problem = f"learner rank {rank}: {type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"
    problems: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    if not any(problems):
        checkpoint = Checkpoint(path, filesystem=storage.storage_filesystem)
        ray.train.report({}, checkpoint=checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
    return next((it for it in problems if it), "")


def _write(learner: Saver, rank: int, storage: Any, path: str, files: Mapping[str, str]) -> None:
    """Write this rank's part: on a disk into the checkpoint itself, else into a temporary folder that is uploaded."""
    filesystem, run = storage.storage_filesystem, storage.experiment_fs_path
    if filesystem.get_file_info(run).type != pyarrow.fs.FileType.Directory:
        raise FileNotFoundError(f"{run} is not seen from this node: checkpointing.storage_path must be, from all nodes")
    filesystem.create_dir(path, recursive=True)
    if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        _write_here(learner, rank, Path(path), files)
        return
    with tempfile.TemporaryDirectory() as folder:
        _write_here(learner, rank, Path(folder), files)
        copy_tree((pyarrow.fs.LocalFileSystem(), folder), (filesystem, path))


def _write_here(learner: Saver, rank: int, folder: Path, files: Mapping[str, str]) -> None:
    learner.save(folder)
    if rank == 0:
        for name, text in files.items():
            (folder / name).write_text(text)
