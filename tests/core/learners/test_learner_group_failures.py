"""Learner groups side by side, errors and deaths of ranks, and what remains when a group has been stopped."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from tests.core.learners.learner_groups import (
    ADVANTAGES,
    LOSS,
    LR,
    TOKEN_BUDGET,
    FailingLoss,
    HangingLoss,
    Setting,
    num_tokens,
    sampled_groups,
    start,
    update,
)
from tests.waiting import eventually
from tests.weights import gap, weights_of
from tgpo_ray.episode import SampledGroup
from tgpo_ray.learners import CheckpointError, LearnerError, LearnerGroup, LearnersRestartedError
from tgpo_ray.learners.train_run import Placement, TrainRun


@pytest.fixture(scope="module")
def groups(ray_cluster: Any) -> list[SampledGroup]:
    return sampled_groups()


def train_processes() -> set[int]:
    """Process ids of the actors that learner groups of this test run have made."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if any(word in title for word in ("RayTrainWorker", "TrainController", "Mailbox")):
                found.add(process.pid)
    return found


def placement_groups() -> set[str]:
    return {key for key, entry in ray.util.placement_group_table().items() if entry["state"] != "REMOVED"}


def start_pair(model: str, storage: Path) -> tuple[LearnerGroup, LearnerGroup]:
    """Two groups side by side, one of two ranks."""
    two, one = (start(Setting("torch", ranks), model, storage / str(ranks)) for ranks in (2, 1))
    return two, one


@pytest.fixture(scope="module")
def pair(ray_cluster: Any, tiny_models: Any, tmp_path_factory: Any) -> Iterator[tuple[LearnerGroup, LearnerGroup]]:
    """A pair that tests may update and whose ranks they may kill, but which they leave at work."""
    both = start_pair(tiny_models["policy"], tmp_path_factory.mktemp("storage"))
    yield both
    for group in both:
        group.stop()


@pytest.mark.slow
def test_two_groups_live_side_by_side(pair, groups):
    for group in pair:
        group.wait_until_ready()
    pids = [[pid for _, pid in group.processes()] for group in pair]
    assert (len(pids[0]), len(pids[1])) == (2, 1) and not set(pids[0]) & set(pids[1])
    untouched = weights_of(pair[1])
    update(pair[0], groups)
    assert gap(weights_of(pair[1]), untouched) == 0.0
    assert gap(weights_of(pair[0]), untouched) > 1e-4


def test_error_on_a_rank_reaches_the_driver_with_its_message(pair, groups):
    pair[1].accumulate(groups, ADVANTAGES, FailingLoss())
    with pytest.raises(LearnerError, match="learner rank 0, accumulate: ArithmeticError: this loss always fails"):
        pair[1].step(num_tokens(groups), LR)
    assert weights_of(pair[1])  # it still answers


def test_nothing_to_divide_by_is_refused(pair):
    with pytest.raises(ValueError, match="denominator must be > 0, got 0"):
        pair[1].step(0.0, LR)


def test_killed_rank_restarts_the_group_from_its_last_checkpoint(pair, groups):
    learners, other = pair
    learners.save("before", {})
    kept, before = weights_of(learners), learners.processes()
    update(learners, groups)
    learners.accumulate(groups, ADVANTAGES, LOSS)
    os.kill(before[1][1], signal.SIGKILL)
    with pytest.raises(LearnersRestartedError, match="restarted from their last checkpoint"):
        while True:  # the accumulation may have ended before the rank did
            learners.step(num_tokens(groups), LR)
            learners.accumulate(groups, ADVANTAGES, LOSS)
    with pytest.raises(LearnersRestartedError):  # until somebody has taken notice
        weights_of(learners)
    learners.wait_until_ready()
    assert gap(weights_of(learners), kept) == 0.0
    assert not {pid for _, pid in learners.processes()} & {pid for _, pid in before}
    assert np.isfinite(update(learners, groups)["optimizer/grad_norm"])
    assert weights_of(other)


def test_checkpoint_that_cannot_be_written_costs_neither_ranks_nor_the_next_one(pair):
    """The kernel refuses rank 0 to write more into one file, as a full disk does. Rank 1 has nothing to write."""
    learners = pair[0]
    before, limit = weights_of(learners), resource.RLIMIT_FSIZE
    rank = learners.processes()[0][1]
    unlimited = resource.prlimit(rank, limit)
    resource.prlimit(rank, limit, (100_000, unlimited[1]))
    try:
        with pytest.raises(CheckpointError, match=r"/half could not be written: learner rank 0: ") as error:
            learners.save("half", {})
    finally:
        resource.prlimit(rank, limit, unlimited)
    assert error.value.path.endswith("/half")
    learners.load(learners.save("whole", {}))
    assert gap(weights_of(learners), before) == 0.0


@pytest.mark.long
def test_a_group_that_did_not_die_goes_back_with_another_that_did(ray_cluster, groups, tiny_models, tmp_path):
    learners = start(Setting("torch", 1), tiny_models["policy"], tmp_path)
    try:
        first = weights_of(learners)
        update(learners, groups)
        learners.roll_back()  # no checkpoint: the model as it is on disk, on ranks that start again
        assert gap(weights_of(learners), first) == 0.0
        update(learners, groups)
        learners.save("kept", {})
        kept, metrics = weights_of(learners), update(learners, groups)
        learners.accumulate(groups, ADVANTAGES, LOSS)  # what was begun is forgotten
        learners.roll_back()
        assert gap(weights_of(learners), kept) == 0.0
        assert update(learners, groups) == metrics
    finally:
        learners.stop()


@pytest.mark.long
def test_a_mailbox_that_dies_once_too_often_ends_the_group_with_its_name(ray_cluster, groups, tiny_models, tmp_path):
    learners = start(Setting("torch", 1), tiny_models["policy"], tmp_path, max_restarts=1)
    try:
        learners.wait_until_ready()
        ray.kill(learners._ranks._mailbox)
        with pytest.raises(
            LearnersRestartedError, match="the learners' mailbox has died, and the learners were started"
        ):
            update(learners, groups)
        learners.wait_until_ready()
        update(learners, groups)
        ray.kill(learners._ranks._mailbox)
        with pytest.raises(LearnerError, match=r"max_learner_restarts \(1\) is used up"):
            update(learners, groups)
    finally:
        learners.stop()


@pytest.mark.long
def test_rank_that_hangs_is_killed_by_stop_and_nothing_remains(groups, tiny_models, tmp_path):
    processes_before, placement_groups_before = train_processes(), placement_groups()
    pair = hanging, other = start_pair(tiny_models["policy"], tmp_path)
    for group in pair:
        group.wait_until_ready()
    hanging.accumulate(groups, ADVANTAGES, HangingLoss())
    pids = [pid for group in pair for _, pid in group.processes()]
    assert all(psutil.pid_exists(pid) for pid in pids)
    started = time.monotonic()
    hanging.stop(grace_s=1.0)
    assert not hanging._ranks.running
    other.stop()
    assert time.monotonic() - started < 60.0
    assert eventually(lambda: train_processes() <= processes_before)
    assert eventually(lambda: placement_groups() <= placement_groups_before)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    hanging.stop()  # a second time is harmless


@pytest.mark.long
def test_group_stops_while_it_is_still_starting(ray_cluster, tiny_models, tmp_path):
    before = train_processes()
    learners = start(Setting("torch", 1), tiny_models["policy"], tmp_path)
    learners.stop(grace_s=0.0)
    assert eventually(lambda: not learners._ranks.running, 60.0)
    assert eventually(lambda: train_processes() <= before)


@pytest.mark.long
def test_model_that_does_not_load_is_named(ray_cluster, tmp_path):
    spec = Setting("torch", 1).spec(str(tmp_path / "no-such-model"))
    learners = LearnerGroup(spec, Placement(1, 0.25), TrainRun(str(tmp_path), max_restarts=0), TOKEN_BUDGET)
    try:
        with pytest.raises(LearnerError, match="no-such-model"):
            learners.wait_until_ready()
    finally:
        learners.stop()
