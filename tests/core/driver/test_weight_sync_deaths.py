"""The learners' weights on both ways to the engines, over a process group and the object store, with deaths on the way.

The process group is gloo, by engines of the tests that vLLM makes as it makes its own for NCCL.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import ray

from tests.core.env_runners.runner_groups import SAMPLING, runner_spec, tasks
from tests.core.learners.learner_groups import LOSS, Setting, num_tokens, start
from tests.waiting import eventually
from tgpo_ray.driver.weight_sync import WeightSync
from tgpo_ray.env_runners.group import EnvRunnerGroup
from tgpo_ray.episode import SampledGroup
from tgpo_ray.learners import LearnerGroup, LearnersRestartedError
from tgpo_ray.models import WeightTransferError

LOGPROB_BOUND = 1e-4  # as in test_weight_sync: the largest difference seen is 7e-7
TEMPERATURE = 0.8  # of the learners' log-probs
TRANSFER = "tests.core.models.gloo_transfer:GlooTrainerInfo"
BACKENDS = pytest.mark.parametrize("weights", ["object_store", "gloo"], indirect=True)

pytestmark = pytest.mark.long


@dataclass
class Pair:
    """Two learners with ZeRO-3 and two runners, of which tests kill what they like."""

    learners: LearnerGroup
    runners: EnvRunnerGroup
    weights: WeightSync

    def sample(self) -> list[SampledGroup]:
        sampling = replace(SAMPLING, temperature=TEMPERATURE)
        return list(self.runners.sample(tasks(4), 4, sampling, seed=0))

    def gap(self) -> float:
        """The largest |learner - sampler| log-prob of a token, over episodes that both runners have written."""
        return float(self.learners.sampler_gaps(self.sample()).max())

    def versions(self) -> set[float]:
        return {info.weights_version for group in self.sample() for info in group.infos}

    def update(self) -> None:
        groups = self.sample()
        advantages = [np.asarray([1.0, -1.0, 1.0, -1.0], np.float32)] * len(groups)
        self.learners.accumulate(groups, advantages, LOSS)
        self.learners.step(num_tokens(groups), 1e-2)

    def kill_runner(self) -> None:
        os.kill(process_of(self.runners.runners[0]), signal.SIGKILL)

    def kill_learner(self) -> None:
        os.kill(self.learners.processes()[0][1], signal.SIGKILL)


def version_of(runner: Any) -> int:
    return ray.get(runner.__ray_call__.remote(lambda self: self._version))


def process_of(runner: Any) -> int:
    return ray.get(runner.__ray_call__.remote(lambda self: os.getpid()))


@pytest.fixture(scope="module")
def pair(ray_cluster: Any, tiny_models: Any, tmp_path_factory: Any) -> Iterator[Pair]:
    spec = runner_spec(tiny_models["policy"])
    spec = replace(spec, engine=replace(spec.engine, weight_transfer=TRANSFER))
    setting = Setting("deepspeed", 2, zero_stage=3)
    learners = start(setting, tiny_models["policy"], tmp_path_factory.mktemp("storage"), max_restarts=10)
    runners = EnvRunnerGroup(spec, 2, num_cpus=0.5, max_restarts=10)
    yield Pair(learners, runners, WeightSync(learners, runners))
    runners.stop()
    learners.stop()


@pytest.fixture
def weights(pair: Pair, request: pytest.FixtureRequest) -> WeightSync:
    """The pair's WeightSync by the backend of the test. Engines with a transfer of their own take buckets too."""
    pair.learners.wait_until_ready()
    pair.weights.backend = {"object_store": None, "gloo": TRANSFER}[request.param]
    pair.weights.sync()
    return pair.weights


@BACKENDS
def test_after_an_update_and_a_sync_both_runners_sample_from_the_learners_weights(pair: Pair, weights: WeightSync):
    assert pair.gap() < LOGPROB_BOUND
    pair.update()
    assert pair.gap() > 10 * LOGPROB_BOUND  # the update moved what is compared
    version = weights.sync()
    assert pair.versions() == {version}
    assert pair.gap() < LOGPROB_BOUND
    assert weights.sync() == version + 1  # the connection serves again
    assert pair.gap() < LOGPROB_BOUND


@pytest.mark.parametrize("weights", ["object_store"], indirect=True)
def test_no_weights_remain_in_the_object_store_after_a_sync(
    pair: Pair, weights: WeightSync, monkeypatch: pytest.MonkeyPatch
):
    take, seen = pair.learners.weight_buckets, []

    def weight_buckets() -> Any:
        buckets = take()
        seen.append(stored_bytes())
        return buckets

    monkeypatch.setattr(pair.learners, "weight_buckets", weight_buckets)
    weights.sync()
    before = min(stored_bytes() for _ in range(10) if time.sleep(0.2) is None)  # what ended with the last sync goes
    for _ in range(3):
        weights.sync()
    assert min(seen) > before  # they were there
    assert eventually(lambda: stored_bytes() <= before)


def stored_bytes() -> int:
    from ray._private.internal_api import node_stats

    (node,) = ray.nodes()
    return node_stats(node["NodeManagerAddress"], node["NodeManagerPort"]).store_stats.object_store_bytes_used


@BACKENDS
def test_a_runner_that_dies_between_syncs_comes_back_with_the_weights_of_the_learners(pair: Pair, weights: WeightSync):
    version, restarts = weights.version, pair.runners.num_restarts
    pair.kill_runner()
    assert pair.versions() == {version}
    assert pair.gap() < LOGPROB_BOUND
    assert (pair.runners.num_restarts, weights.version) == (restarts + 1, version)


@BACKENDS
def test_a_runner_that_comes_back_when_the_learners_are_ahead_has_a_version_of_its_own(pair: Pair, weights: WeightSync):
    version = weights.version
    pair.update()
    pair.kill_runner()
    assert pair.versions() <= {version, version + 1}  # the other runner may have done all of it
    assert [version_of(runner) for runner in pair.runners.runners] == [version + 1, version]
    assert weights.version == pair.runners.weights_version == version + 1
    assert weights.sync() == version + 2
    assert pair.versions() == {version + 2}


def killing(pair: Pair, kill: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """`weight_buckets` that kills once, between the learners' answer and the runners' loading."""
    take, left = pair.learners.weight_buckets, [kill]

    def weight_buckets() -> Any:
        buckets = take()
        if left:
            left.pop()()
        return buckets

    monkeypatch.setattr(pair.learners, "weight_buckets", weight_buckets)
    return weight_buckets


@pytest.mark.parametrize("weights", ["object_store"], indirect=True)
def test_a_runner_that_dies_during_a_sync_has_the_new_weights_too(
    pair: Pair, weights: WeightSync, monkeypatch: pytest.MonkeyPatch
):
    restarts = pair.runners.num_restarts
    pair.update()
    killing(pair, pair.kill_runner, monkeypatch)
    version = weights.sync()
    assert pair.runners.num_restarts == restarts + 1
    assert pair.versions() == {version}
    assert pair.gap() < LOGPROB_BOUND


@BACKENDS
def test_learners_that_die_before_a_sync_end_it_and_the_next_one_works(pair: Pair, weights: WeightSync):
    restarts = pair.runners.num_restarts
    pair.kill_learner()
    with pytest.raises(LearnersRestartedError):
        while True:  # a command that the learners get only after their restart is carried out
            weights.sync()
    pair.learners.wait_until_ready()
    version = weights.sync()
    assert pair.runners.num_restarts == restarts  # no engine had got a part
    assert pair.versions() == {version}
    assert pair.gap() < LOGPROB_BOUND


@BACKENDS
def test_learners_that_die_while_a_runner_restarts_end_the_sampling_and_the_next_sync_works(
    pair: Pair, weights: WeightSync
):
    source = pair.runners.weight_source
    assert source is not None

    def source_after_a_death(members: Any) -> Any:
        pair.kill_learner()
        return source(members)

    pair.runners.weight_source = source_after_a_death
    try:
        pair.kill_runner()
        with pytest.raises(LearnersRestartedError):
            pair.sample()
    finally:
        pair.runners.weight_source = source
    pair.learners.wait_until_ready()
    version = weights.sync()
    assert pair.versions() == {version}
    assert pair.gap() < LOGPROB_BOUND


@pytest.mark.parametrize("weights", ["gloo"], indirect=True)
def test_an_engine_that_dies_within_a_transfer_takes_no_run_with_it(pair: Pair, weights: WeightSync):
    from tests.core.models.gloo_transfer import have_one_die

    restarts, left, processes = pair.runners.num_restarts, pair.runners._restarts_left, pair.learners.processes()
    pair.update()
    have_one_die("engine")
    version = weights.sync()
    assert pair.runners.num_restarts == restarts + 2  # the other engine has half of the weights, and starts anew
    assert pair.runners._restarts_left == left - 1  # one has died
    assert pair.learners.processes() == processes
    assert pair.versions() == {version}
    assert pair.gap() < LOGPROB_BOUND


@pytest.mark.parametrize("weights", ["gloo"], indirect=True)
def test_learners_that_die_within_a_transfer_end_it_and_the_next_one_works(pair: Pair, weights: WeightSync):
    from tests.core.models.gloo_transfer import have_one_die

    have_one_die("trainer")
    with pytest.raises(LearnersRestartedError):
        weights.sync()
    pair.learners.wait_until_ready()
    version = weights.sync()
    assert pair.versions() == {version}
    assert pair.gap() < LOGPROB_BOUND


@pytest.mark.parametrize("weights", ["gloo"], indirect=True)
def test_weights_that_an_engine_cannot_load_are_an_error_with_its_cause(pair: Pair, weights: WeightSync):
    weights.backend = "tests.core.models.gloo_transfer:MisnamingInfo"
    left = pair.runners._restarts_left
    with pytest.raises(
        WeightTransferError, match="EnvRunners did not get their weights: There is no module or parameter"
    ):
        weights.sync()
    weights.backend = TRANSFER
    version = weights.sync()
    assert pair.runners._restarts_left == left
    assert pair.versions() == {version}
    assert pair.gap() < LOGPROB_BOUND
