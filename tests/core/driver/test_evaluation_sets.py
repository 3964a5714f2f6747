"""Held-out sets with a number of responses of their own, and arguments that hold for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.episodes import make_info
from tgpo_ray.algorithms import GRPOConfig
from tgpo_ray.driver.evaluation import evaluate
from tgpo_ray.env_runners import all_envs
from tgpo_ray.episode import SampledGroup, Task

ENV = {"id": "tgpo/Arithmetic-v0", "kwargs": {"digits": [1, 1]}}


class CountingRunners:
    """Every first response is right. `calls`: (k, problems of each set) of each sampling."""

    num_overlong = 0
    num_problems = (None, None, None, None)

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[int]]] = []

    def sample(self, tasks: Sequence[Task], group_size: int, *_: Any) -> Iterator[SampledGroup]:
        assert len({task.key for task in tasks}) == len(tasks)
        self.calls.append((group_size, [task.env_index for task in tasks]))
        for task in reversed(tasks):  # the order of finishing is another one
            infos = [make_info(reward=float(number == 0)) for number in range(group_size)]
            yield SampledGroup(task.ordinal, task, tuple(infos), ref=None)


def config_of(*numbers: int | None, **evaluation: Any) -> GRPOConfig:
    envs = [{**ENV, "name": f"set{i}", "num_samples": number} for i, number in enumerate(numbers)]
    config = GRPOConfig().environment("tgpo/Arithmetic-v0").models(path="org/policy")
    return config.evaluation(envs=envs, max_problems=2, **evaluation)


def test_each_set_has_its_own_k_and_sets_of_one_k_are_sampled_together() -> None:
    runners = CountingRunners()
    metrics, groups = evaluate(config_of(4, None, 4), runners, 0)  # type: ignore[arg-type]
    assert runners.calls == [(4, [1, 1, 3, 3]), (1, [2, 2])]  # set 0 of the runners is the training environment
    accuracies = {f"set{i}": metrics[f"evaluation/set{i}/accuracy"] for i in range(3)}
    assert accuracies == {"set0": 0.25, "set1": 1.0, "set2": 0.25}
    assert metrics["evaluation/accuracy"] == 0.5
    assert metrics["evaluation/set0/pass_at_4"] == 1.0 and "evaluation/pass_at_4" not in metrics
    assert [(group.task.env_index, group.task.problem_index) for group in groups] == [
        (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1),
    ]  # fmt: skip


def test_one_k_of_all_sets_has_a_mean() -> None:
    metrics, _ = evaluate(config_of(None, 2, num_samples=2), CountingRunners(), 0)  # type: ignore[arg-type]
    assert metrics["evaluation/pass_at_2"] == 1.0


def test_several_greedy_responses_are_refused_where_they_are_written() -> None:
    (problem,) = config_of(None, 4, temperature=0.0).problems(files=False)
    assert problem.startswith("evaluation.envs.1.num_samples: must be 1 with evaluation.temperature 0, got 4")


@pytest.mark.parametrize(("kwargs", "digits"), [({}, [1, 1]), ({"digits": [2, 1]}, [2, 1])])
def test_arguments_of_all_sets_replace_those_of_each(kwargs: dict[str, Any], digits: list[int]) -> None:
    training, *held_out = all_envs(config_of(None, None, kwargs=kwargs))
    assert [env.kwargs["digits"] for env in held_out] == [digits, digits]
    assert "digits" not in training.kwargs
