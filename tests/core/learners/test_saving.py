"""The part of one rank of a checkpoint: on a disk, in an object store, and on a node that does not see the storage."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.core.cluster.object_store import ObjectStore
from tgpo_ray.cluster import files_below, join, names_in, opened
from tgpo_ray.learners.saving import _write


class Saver:
    """Writes one file."""

    def save(self, folder: Path) -> None:
        (folder / "learner.pt").write_bytes(b"weights")


def written(run: str, *, rank: int) -> dict[str, int]:
    """The files of a checkpoint that one rank has written into the run's folder."""
    filesystem, path = opened(run)
    storage = SimpleNamespace(storage_filesystem=filesystem, experiment_fs_path=path)
    _write(Saver(), rank, storage, f"{path}/checkpoint_000001", {"algorithm.json": "{}"})
    return files_below(join(run, "checkpoint_000001"))


def test_every_rank_writes_its_files_and_the_first_those_of_the_driver(tmp_path: Path) -> None:
    assert written(str(tmp_path), rank=1) == {"learner.pt": 7}
    assert written(str(tmp_path), rank=0) == {"learner.pt": 7, "algorithm.json": 2}


def test_files_are_uploaded_to_an_object_store() -> None:
    store = ObjectStore()
    try:
        filesystem, path = opened(join(store.uri, "run"))
        filesystem.create_dir(path, recursive=True)
        assert written(join(store.uri, "run"), rank=0) == {"learner.pt": 7, "algorithm.json": 2}
    finally:
        store.stop()


def test_a_rank_that_does_not_see_the_storage_writes_nowhere(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"/other is not seen from this node: checkpointing\.storage_path must be"
    ):
        written(str(tmp_path / "other"), rank=0)
    assert names_in(str(tmp_path)) == []
