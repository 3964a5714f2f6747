"""Where a path is: in Ray's own copy of a working folder, on one node's disk, or where every node sees it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tgpo_ray.cluster.storage import delete, join, local_path, write_text

ANSWER_S = 20.0  # in which a store must answer
T = TypeVar("T")


def nodes_without(path: str, *, num_cpus: float, num_gpus: float, timeout_s: float = 60.0) -> list[str]:
    """Returns the addresses of the nodes that could take a learner and do not see the folder at `path`.

    A small file is written here, and a task on each node looks for it. A URI is the same for all nodes, and a cluster
    of one node needs no look. The folder must exist. Ray must be connected.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    here = ray.get_runtime_context().get_node_id()
    asked = [
        node
        for node in nodes
        if node["NodeID"] != here
        and node["Resources"].get("CPU", 0.0) >= num_cpus
        and node["Resources"].get("GPU", 0.0) >= num_gpus
    ]
    if local_path(path) is None or not asked:
        return []
    with tempfile.NamedTemporaryFile(prefix=".seen-by-all-", dir=local_path(path)) as probe:
        sees: Any = ray.remote(num_cpus=0, max_retries=0)(_sees)
        refs = [
            sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                probe.name
            )
            for node in asked
        ]
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=timeout_s)
        answers = {ref: _answer(ref) for ref in done}
    return [node["NodeManagerAddress"] for node, ref in zip(asked, refs, strict=True) if not answers.get(ref)]


def _answer(ref: Any) -> bool:
    """Whether the file was seen. A node that has just gone sees nothing."""
    import ray
    from ray.exceptions import RayError

    try:
        return bool(ray.get(ref))
    except RayError:
        return False


def _sees(path: str) -> bool:
    """Whether the file is there. A network file system may know of it after its listing of the folder is fresh."""
    with contextlib.suppress(OSError):
        os.listdir(os.path.dirname(path))
        return os.path.exists(path)
    return False


def existing_part(folder: Path) -> Path:
    """Returns `folder`, or the nearest folder above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def write_problem(path: str) -> str:
    """Returns why nothing can be written into the folder or URI at `path`, or an empty text. Leaves nothing there."""
    try:
        folder = local_path(path)
        if folder is None:
            probe = join(path, f".tgpo-ray-{os.urandom(4).hex()}")
            answered(lambda: (write_text(probe, "can this be written?"), delete(probe)), ANSWER_S)
            return ""
        above = existing_part(folder)
        if not above.is_dir():
            return f"{above} is a file"
        with tempfile.TemporaryFile(dir=above) as file:
            file.write(b"\0")
    except (OSError, ValueError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def free_bytes(path: str) -> int | None:
    """Returns the free bytes of the disk that `path` is or would be on, None for an object store, which has no end."""
    folder = local_path(path)
    return None if folder is None else shutil.disk_usage(existing_part(folder)).free


def answered(ask: Callable[[], T], timeout_s: float) -> T:
    """Returns what `ask` returns, in a thread of its own, because a store that is away retries for minutes.

    Raises:
        TimeoutError: there was no answer in time. The thread goes on until its retries end.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(ask())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {timeout_s:.0f} s")
    return results[0]
