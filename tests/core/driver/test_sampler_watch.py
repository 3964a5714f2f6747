"""The comparison of learner and sampler in every k-th iteration: what it takes, what it finds, what it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.core.model_answers import load
from tests.episodes import make_info
from tgpo_ray.driver.sampler_watch import SamplerWatch, one_micro_batch
from tgpo_ray.episode import SampledGroup, Task


def group_of(ordinal: int, *lengths: int) -> SampledGroup:
    infos = tuple(make_info(length=length, prompt_length=2) for length in lengths)
    return SampledGroup(ordinal, Task(0, 0, 0), infos, None)


@pytest.mark.parametrize(("every", "due"), [(1, [1, 2, 3, 4, 5, 6]), (3, [1, 4]), (10, [1]), (0, [])])
def test_the_second_iteration_is_compared_and_every_kth_after_it(every: int, due: list[int]) -> None:
    config = SimpleNamespace(fault_tolerance=SimpleNamespace(sampler_gap_every=every))
    algorithm: Any = SimpleNamespace(config=config)
    watch = SamplerWatch(algorithm, ahead=False)
    assert [iteration for iteration in range(7) if watch.is_due(iteration)] == due


def test_the_episodes_compared_fit_one_micro_batch() -> None:
    groups = [group_of(0, 8, 98), group_of(1, 8, 8)]  # 10, 100, 10 and 10 tokens
    assert [len(group.infos) for group in one_micro_batch(groups, 10_000)] == [2, 2]
    chosen = one_micro_batch(groups, 25)
    assert [(group.ordinal, group.members) for group in chosen] == [(0, (0,)), (1, (0,))]
    assert [group.members for group in one_micro_batch(groups, 1)] == [(0,)]  # one always
    assert one_micro_batch([group_of(0, 0)], 25) == []  # nothing that the policy wrote


@pytest.fixture
def build(make_config: Callable[..., Any], env_runners: Any) -> Iterator[Callable[..., Any]]:
    started: list[Any] = []

    def build(**sections: Any) -> Any:
        started.append(make_config("GRPO", **sections).build_algo(env_runners=env_runners))
        return started[-1]

    yield build
    for algorithm in started:
        algorithm.stop()


def learned(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith(("loss/", "policy/", "optimizer/"))}


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, 1])
def test_the_gap_is_a_metric_and_changes_nothing_that_is_learned(
    build: Callable[..., Any], tiny_models: Any, sync_model: Any, staleness: int
) -> None:
    training = {"num_iterations": 2, "max_staleness": staleness}

    def trained(every: int) -> list[dict[str, float]]:
        algorithm = build(training=training, fault_tolerance={"sampler_gap_every": every})  # the runners are shared
        return [algorithm.train() for _ in range(2)]

    first, second = trained(10), trained(0)
    assert "sampler/gap" not in first[0]
    assert 0.0 < first[1]["sampler/gap"] < 1e-4
    assert not any("sampler/gap" in metrics for metrics in second)
    assert [learned(metrics) for metrics in first] == [learned(metrics) for metrics in second]


@pytest.mark.slow
def test_an_engine_with_other_weights_ends_the_run_before_its_update(
    build: Callable[..., Any], tiny_models: Any, sync_model: Any
) -> None:
    algorithm = build(training={"num_iterations": 3})
    algorithm.train()
    model, _ = load(tiny_models["policy"])
    for weight in model.parameters():
        weight.data *= 1.2
    sync_model(model)
    steps = algorithm.learners.num_steps
    with pytest.raises(RuntimeError, match=r"differ by .* above fault_tolerance.max_sampler_gap = 0.01"):
        algorithm.train()
    assert algorithm.learners.num_steps == steps
