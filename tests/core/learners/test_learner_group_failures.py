"""Learner groups side by side, errors and deaths of ranks, and what remains when a group has been stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
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
    gap,
    num_tokens,
    sampled_groups,
    start,
    update,
    weights,
)
from tgpo_ray.episode import SampledGroup
from tgpo_ray.learners.group import LearnerError, LearnerGroup, LearnersRestartedError, Placement, TrainRun


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


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)
    return condition()


@pytest.fixture(scope="module")
def before_pair(ray_cluster: Any) -> tuple[set[int], set[str]]:
    """Processes and placement groups of the group that earlier tests leave running."""
    return train_processes(), placement_groups()


@pytest.fixture(scope="module")
def pair(before_pair: Any, tiny_models: Any, tmp_path_factory: Any) -> Iterator[tuple[LearnerGroup, LearnerGroup]]:
    """Two groups side by side, one of two ranks."""
    two, one = (
        start(Setting("torch", ranks), tiny_models["policy"], tmp_path_factory.mktemp("storage")) for ranks in (2, 1)
    )
    both = two, one
    yield both
    for group in both:
        group.stop()


@pytest.mark.slow
def test_two_groups_live_side_by_side(pair, groups):
    for group in pair:
        group.wait_until_ready()
    pids = [[pid for _, pid in group.processes()] for group in pair]
    assert (len(pids[0]), len(pids[1])) == (2, 1) and not set(pids[0]) & set(pids[1])
    untouched = weights(pair[1])
    update(pair[0], groups)
    assert gap(weights(pair[1]), untouched) == 0.0
    assert gap(weights(pair[0]), untouched) > 1e-4


def test_error_on_a_rank_reaches_the_driver_with_its_message(pair, groups):
    pair[1].accumulate(groups, ADVANTAGES, FailingLoss())
    with pytest.raises(LearnerError, match="learner rank 0, accumulate: ArithmeticError: this loss always fails"):
        pair[1].step(num_tokens(groups), LR)
    assert weights(pair[1])  # it still answers


def test_nothing_to_divide_by_is_refused(pair):
    with pytest.raises(ValueError, match="denominator must be > 0, got 0"):
        pair[1].step(0.0, LR)


def test_killed_rank_restarts_the_group_from_its_last_checkpoint(pair, groups):
    learners, other = pair
    learners.save("before", {})
    kept, before = weights(learners), learners.processes()
    update(learners, groups)
    learners.accumulate(groups, ADVANTAGES, LOSS)
    os.kill(before[1][1], signal.SIGKILL)
    with pytest.raises(LearnersRestartedError, match="restarted from their last checkpoint"):
        while True:  # the accumulation may have ended before the rank did
            learners.step(num_tokens(groups), LR)
            learners.accumulate(groups, ADVANTAGES, LOSS)
    assert gap(weights(learners), kept) == 0.0
    assert not {pid for _, pid in learners.processes()} & {pid for _, pid in before}
    assert np.isfinite(update(learners, groups)["optimizer/grad_norm"])
    assert weights(other)


@pytest.mark.slow
def test_rank_that_hangs_is_killed_by_stop_and_nothing_remains(pair, groups, before_pair):
    hanging, other = pair
    hanging.accumulate(groups, ADVANTAGES, HangingLoss())
    pids = [pid for group in pair for _, pid in group.processes()]
    assert all(psutil.pid_exists(pid) for pid in pids)
    started = time.monotonic()
    hanging.stop(grace_s=1.0)
    assert not hanging._thread.is_alive()
    other.stop()
    assert time.monotonic() - started < 60.0
    assert eventually(lambda: train_processes() <= before_pair[0])
    assert eventually(lambda: placement_groups() <= before_pair[1])
    assert not any(psutil.pid_exists(pid) for pid in pids)
    hanging.stop()  # a second time is harmless


@pytest.mark.slow
def test_group_stops_while_it_is_still_starting(ray_cluster, tiny_models, tmp_path):
    before = train_processes()
    learners = start(Setting("torch", 1), tiny_models["policy"], tmp_path)
    learners.stop(grace_s=0.0)
    assert eventually(lambda: not learners._thread.is_alive(), 60.0)
    assert eventually(lambda: train_processes() <= before)


@pytest.mark.slow
def test_model_that_does_not_load_is_named(ray_cluster, tmp_path):
    spec = Setting("torch", 1).spec(str(tmp_path / "no-such-model"))
    learners = LearnerGroup(spec, Placement(1, 0.25), TrainRun(str(tmp_path), max_restarts=0), TOKEN_BUDGET)
    try:
        with pytest.raises(LearnerError, match="no-such-model"):
            learners.wait_until_ready()
    finally:
        learners.stop()
