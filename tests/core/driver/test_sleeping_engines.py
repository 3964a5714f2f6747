"""An engine that sleeps: the order of vLLM's calls, with the real engine. On a CPU vLLM takes and ignores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import ray

from tgpo_ray.env_runners.group import EnvRunnerGroup
from tgpo_ray.episode import Task
from tgpo_ray.models.engine_spec import Sampling

TASKS = [Task(0, index, seed=index, ordinal=index) for index in range(2)]
WATCHED = ("sleep", "wake_up", "add_request", "reset_prefix_cache")


def _watch(runner: Any) -> None:
    """Note the calls of the runner's LLMEngine from here on, repeated ones once."""
    engine = runner._engine._engine
    runner.noted = []

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            shown = options if name in ("sleep", "wake_up") else {}
            if not runner.noted or runner.noted[-1] != (name, shown):
                runner.noted.append((name, shown))
            return method(*arguments, **options)

        return call

    for name in WATCHED:
        setattr(engine, name, noting(name, getattr(engine, name)))


def _unwatch(runner: Any) -> list[Any]:
    for name in WATCHED:
        delattr(runner._engine._engine, name)
    return runner.noted


WAKING = [
    ("sleep", {"level": 2}),
    ("wake_up", {"tags": ["weights"]}),
    ("wake_up", {"tags": ["kv_cache"]}),
    ("reset_prefix_cache", {}),
]


@pytest.fixture
def sleeping(env_runners: EnvRunnerGroup) -> Iterator[EnvRunnerGroup]:
    """The shared runners, of which the driver believes that they were built with sleep mode."""
    spec = env_runners.spec
    env_runners.spec = replace(spec, engine=replace(spec.engine, sleep=True))
    yield env_runners
    env_runners.spec = spec


def test_a_sleeping_engine_is_stale_and_new_weights_wake_it_up(sleeping: EnvRunnerGroup, policy_buckets: list[Any]):
    (runner,) = sleeping.runners
    ray.get(runner.__ray_call__.remote(_watch))
    sleeping.sleep()
    sampling = Sampling(max_tokens=8)
    with pytest.raises(Exception, match="stale: call sync_weights before sample"):
        list(sleeping.sample(TASKS, 2, sampling, seed=0))
    sleeping.sync_weights(sleeping.weights_version + 1, policy_buckets)
    assert len(list(sleeping.sample(TASKS, 2, sampling, seed=0))) == 2
    sleeping.sync_weights(sleeping.weights_version + 1, policy_buckets)  # awake: no call of sleep mode
    calls = ray.get(runner.__ray_call__.remote(_unwatch))
    assert calls == [*WAKING, ("add_request", {}), ("reset_prefix_cache", {})]


def test_engines_that_were_not_built_for_it_do_not_sleep(env_runners: EnvRunnerGroup):
    (runner,) = env_runners.runners
    ray.get(runner.__ray_call__.remote(_watch))
    env_runners.sleep()
    assert ray.get(runner.__ray_call__.remote(_unwatch)) == []


@pytest.mark.slow
def test_an_iteration_samples_sleeps_learns_and_wakes(sleeping: EnvRunnerGroup, make_config: Callable[..., Any]):
    from tgpo_ray.algorithms import GRPO

    algorithm = GRPO(make_config("GRPO"), env_runners=sleeping)
    try:
        algorithm.config.env_runners.sleep = True  # a configuration for a CPU is refused with it
        assert not algorithm.handover().streams
        (runner,) = sleeping.runners
        ray.get(runner.__ray_call__.remote(_watch))
        metrics = [algorithm.train() for _ in range(2)]
        calls = ray.get(runner.__ray_call__.remote(_unwatch))
    finally:
        algorithm.stop()
    assert calls == 2 * [("add_request", {}), *WAKING]
    assert all(it["optimizer/grad_norm"] >= 0.0 for it in metrics)
