"""Threads by who else computes on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tgpo_ray.learners.threads import RankThreads
from tgpo_ray.models import IdleCores, machine_cores

OTHER = """
import sys
from pathlib import Path
from tgpo_ray.models import IdleCores
cores = IdleCores(1, 8, Path(sys.argv[1]))
for line in sys.stdin:
    print(cores.take() if line.strip() == "take" else cores.rest(), flush=True)
"""


class Other:
    """Another process on the same board."""

    def __init__(self, board: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(board)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def say(self, word: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Other]:
    found = Other(tmp_path / "board")
    yield found
    found.process.kill()
    found.process.communicate()


def test_all_cores_while_nobody_else_computes_and_the_own_ones_otherwise(other: Other, tmp_path: Path):
    cores = IdleCores(2, 8, tmp_path / "board")
    assert cores.take() == 8
    assert cores.take() == 8, "a process is no other to itself"
    assert other.say("take") == "1"
    assert cores.take() == 2
    cores.rest()
    assert other.say("take") == "8"
    other.say("rest")
    assert cores.take() == 8


def test_a_process_that_dies_while_it_computes_leaves_its_cores(other: Other, tmp_path: Path):
    cores = IdleCores(1, 8, tmp_path / "board")
    assert other.say("take") == "8"
    assert cores.take() == 1
    other.process.kill()
    other.process.wait()
    assert cores.take() == 8


def test_a_machine_has_no_more_cores_than_the_process_may_use():
    assert 1 <= machine_cores() <= len(os.sched_getaffinity(0))


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(("cores", "alone"), [(None, 1), ("own", 1), ("all", machine_cores()), ("idle", None)])
def test_the_threads_of_a_rank_are_the_same_in_every_step_unless_groups_stream(cores, alone):
    seen = [torch.get_num_threads() for _ in RankThreads(1, cores).working(range(3))]
    assert set(seen) == {alone} if alone else set(seen) <= {1, machine_cores()}
