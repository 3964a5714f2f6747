"""Paths and URIs: joined, written whole, listed, deleted; what cannot be written, and what one node alone sees."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.core.cluster.object_store import ObjectStore
from tgpo_ray.cluster import (
    connection,
    copy_folder,
    delete,
    files_below,
    free_bytes,
    is_file,
    is_folder,
    join,
    names_in,
    nodes_without,
    parent,
    places,
    read_text,
    replace_file,
    shown,
    storage,
    write_problem,
    write_text,
)
from tgpo_ray.config import RayConfig


@pytest.fixture(params=["path", "uri"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "a") if request.param == "path" else f"file://{tmp_path}/a"


@pytest.mark.parametrize(
    ("path", "joined"),
    [("/a", "/a/b/c"), ("/a/", "/a/b/c"), ("s3://k/a", "s3://k/a/b/c"), ("s3://k/a?x=y&z=1", "s3://k/a/b/c?x=y&z=1")],
)
def test_names_join_before_the_options_of_a_uri(path: str, joined: str) -> None:
    assert join(path, "b", "c") == joined
    assert parent(parent(joined)) == path.rstrip("/")


def test_a_message_shows_no_password() -> None:
    said = "run folder: s3://key:secret@bucket/runs?scheme=http, and /a:b@c"
    assert shown(said) == "run folder: s3://key:***@bucket/runs?scheme=http, and /a:b@c"
    assert shown("file:///mnt/runs") == "file:///mnt/runs"


def test_files_are_written_listed_and_deleted(folder: str, tmp_path: Path) -> None:
    assert names_in(folder) == [] and files_below(folder) == {} and not is_folder(folder)
    write_text(join(folder, "sub", "x.txt"), "ä")
    write_text(join(folder, "y.txt"), "old")
    write_text(join(folder, "y.txt"), "new")
    (tmp_path / "z").write_bytes(b"123")
    replace_file(tmp_path / "z", join(folder, "sub", "z"))
    assert names_in(folder) == ["sub", "y.txt"]
    assert files_below(folder) == {"sub/x.txt": 2, "y.txt": 3, "sub/z": 3}
    assert read_text(join(folder, "y.txt")) == "new"
    copy_folder(folder, f"{tmp_path}/copy")
    assert files_below(f"{tmp_path}/copy") == files_below(folder)
    delete(join(folder, "y.txt"))
    delete(join(folder, "sub"))
    delete(join(folder, "nothing"))
    assert names_in(folder) == [] and is_folder(folder) and not is_file(join(folder, "y.txt"))


def test_an_upload_whose_end_gets_no_answer_is_an_error_and_no_missing_object(tmp_path: Path) -> None:
    store = ObjectStore()
    try:
        write_text(f"{tmp_path}/a/learner.pt", "x" * 100)
        write_text(f"{tmp_path}/a/algorithm.json", "{}")
        copy_folder(f"{tmp_path}/a", join(store.uri, "whole"))
        assert files_below(join(store.uri, "whole")) == {"learner.pt": 100, "algorithm.json": 2}
        store.lost = "half/algorithm.json"
        with pytest.raises(OSError, match=r"upload for key 'runs/half/algorithm\.json'"):
            copy_folder(f"{tmp_path}/a", join(store.uri, "half"))
    finally:
        store.stop()


def test_a_write_that_fails_leaves_the_file_that_was_there(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(join(folder, "run.json"), "whole")

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(join(folder, "run.json"), "half")
    assert read_text(join(folder, "run.json")) == "whole" and names_in(folder) == ["run.json"]


def test_what_cannot_be_written_is_said_and_what_can_is_left_as_it_was(folder: str, tmp_path: Path) -> None:
    assert write_problem(folder) == ""
    assert not (tmp_path / "a").exists() and list(tmp_path.iterdir()) == []
    (tmp_path / "a").write_text("")
    assert write_problem(join(folder, "b")) == f"{tmp_path}/a is a file"
    assert "Unrecognized filesystem type in URI" in write_problem("nowhere://x")
    assert "/proc" in write_problem("/proc/runs") or "Error" in write_problem("/proc/runs")
    free = free_bytes(folder)
    assert free is not None and free > 0


def test_a_store_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ANSWER_S", 0.2)
    monkeypatch.setattr(places, "local_path", lambda path: None)
    monkeypatch.setattr(places, "write_text", lambda path, text: time.sleep(1.0))
    assert write_problem("s3://bucket/runs") == "TimeoutError: no answer within 0 s"


# ---- a cluster's address


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("127.0.0.1:1", "ray.address: no Ray cluster answers at '127.0.0.1:1': start one with `ray start --head`, or"),
        ("ray://127.0.0.1:1", "no Ray cluster answers at 'ray://127.0.0.1:1'"),
        ("no.such.host.invalid:6379", "no Ray cluster answers at 'no.such.host.invalid:6379'"),
        ("http://127.0.0.1:8265", "is a dashboard, which `ray job submit` talks to; a run that joins the cluster by "),
        ("local", ""),
    ],
)
def test_an_address_where_nobody_answers_is_known_in_seconds(
    address: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: False)
    start = time.monotonic()
    found = connection.address_problem(RayConfig(address=address))
    assert problem in found and bool(found) == bool(problem)
    assert time.monotonic() - start < 6.0


def test_the_variable_is_named_where_it_holds_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert connection.address_problem(RayConfig()).startswith("RAY_ADDRESS: no Ray cluster answers at '127.0.0.1:1'")
    monkeypatch.delenv("RAY_ADDRESS")
    assert connection.address_problem(RayConfig()) == ""


# ---- several nodes


class Node(dict[str, Any]):
    def __init__(self, name: str, cpus: float) -> None:
        super().__init__(
            Alive=True, NodeID=name.encode().hex().ljust(56, "0"), NodeManagerAddress=name, Resources={"CPU": cpus}
        )


def test_only_nodes_that_may_take_a_learner_are_asked(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other nodes are not there, so a task on one of them ends without an answer: the folder is not seen."""
    import ray

    nodes = [*ray.nodes(), Node("10.0.0.2", 8.0), Node("10.0.0.3", 0.0)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    blind = nodes_without(str(tmp_path), num_cpus=1.0, num_gpus=0.0, timeout_s=0.5)
    assert blind == ["10.0.0.2"] and os.listdir(tmp_path) == []
    assert nodes_without(str(tmp_path), num_cpus=9.0, num_gpus=0.0, timeout_s=0.5) == []
