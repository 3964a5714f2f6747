"""Prompts that turn out to be too long while a run samples: the group is replaced, whatever the policy would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.algorithms.driver_parts import config_of, without_actors
from tests.core.env_runners.answered_runners import AnsweredRunners, cursor
from tests.core.env_runners.runner_groups import ARITHMETIC, LONG_PROMPTS, SAMPLING, runner_spec
from tests.episodes import group_of_rewards
from tgpo_ray.driver.evaluation import evaluate
from tgpo_ray.driver.rollouts import Rollouts
from tgpo_ray.env_runners.group import EnvRunnerGroup
from tgpo_ray.env_runners.sampling_session import MAX_OVERLONG_ROUNDS, SamplingSession
from tgpo_ray.episode import SampledGroup, Task
from tgpo_ray.reporting.metrics import METRICS


class AnsweredAtOnce(SamplingSession):
    """A session whose rounds are answered at once; a problem below `first_short` has too long a prompt."""

    def __init__(self, pool: Runners) -> None:
        self._pool: Any = pool

    def _round(self, tasks: Sequence[Task]) -> Iterator[SampledGroup]:
        self._pool.rounds.append([task.problem_index for task in tasks])
        for task in reversed(tasks):  # the last tasks finish first
            group = replace(group_of_rewards(rewards=[1.0, task.problem_index % 2], ordinal=task.ordinal), task=task)
            yield replace(group, infos=()) if task.problem_index < self._pool.first_short else group

    def abort(self) -> None:
        pass


class Runners(AnsweredRunners):
    session = AnsweredAtOnce

    def __init__(self, first_short: int) -> None:
        super().__init__()
        self.first_short = first_short
        self.num_problems_found: list[int | None] = []

    @property
    def num_problems(self) -> list[int | None]:
        return self.num_problems_found


def drawn(groups: list[SampledGroup]) -> list[tuple[int, int]]:
    return sorted((group.ordinal, group.task.problem_index) for group in groups)


def test_a_group_of_an_overlong_prompt_is_replaced_under_its_ordinal_and_counted():
    tasks, runners = cursor(), Runners(first_short=5)
    found = list(runners.sample(tasks.next(3), 2, SAMPLING, 7, more=tasks.next))
    assert runners.rounds == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert drawn(found) == [(0, 6), (1, 7), (2, 5)]
    assert runners.num_overlong == 5


def test_dynamic_sampling_counts_its_own_rounds_and_overlong_prompts_are_replaced_beyond_them():
    tasks, runners = cursor(), Runners(first_short=4)

    def teaches(group: SampledGroup) -> bool:
        return len(set(group.rewards)) > 1  # even problems

    found = list(runners.sample(tasks.next(3), 2, SAMPLING, 7, keep=teaches, more=tasks.next, max_rounds=1))
    # 0 1 2 and 3 are too long; of 3 4 5 and then 6 the filter refuses 5, and its one round is over
    assert runners.rounds == [[0, 1, 2], [3, 4, 5], [6]]
    assert drawn(found) == [(0, 6), (1, 4)]


def test_without_other_tasks_an_overlong_prompt_is_left_out():
    tasks, runners = cursor(), Runners(first_short=2)
    assert drawn(list(runners.sample(tasks.next(3), 2, SAMPLING, 7))) == [(2, 2)]
    assert runners.num_overlong == 2


def test_an_environment_that_makes_hardly_any_other_ends_the_run():
    tasks, runners = cursor(), Runners(first_short=10**9)
    with pytest.raises(ValueError, match=r"makes hardly any others\. Raise env_runners.max_prompt_tokens"):
        list(runners.sample(tasks.next(1), 2, SAMPLING, 7, more=tasks.next))
    assert len(runners.rounds) == MAX_OVERLONG_ROUNDS


@pytest.mark.parametrize("rule", ["refuse", "drop"])
def test_a_run_reports_what_it_left_out_and_what_it_replaced(rule: str):
    algorithm = without_actors(config_of("GRPO", env_runners={"overlong_prompts": rule}))
    algorithm.left_out = [{3, 8}, {1}]  # of the training set and of a held-out one
    rollouts = Rollouts(infos=[group_of_rewards(rewards=[1.0, 0.0]).infos], num_overlong=4)
    metrics = algorithm.measured(rollouts, [], 0)
    found = {name: value for name, value in metrics.items() if "overlong" in name}
    expected = {"sampling/overlong_groups": 4.0, "sampling/overlong_rows": 2.0}
    assert found == (expected if rule == "drop" else {})
    assert expected.keys() <= METRICS.keys()


def test_evaluation_leaves_them_out_counts_them_and_refuses_an_empty_set():
    config = config_of(
        "GRPO",
        env_runners={"overlong_prompts": "drop"},
        evaluation={"envs": [{"id": "tgpo/Arithmetic-v0"}], "max_problems": 6},
    ).resolved(gpus=False)
    runners = Runners(first_short=3)
    runners.num_problems_found = [None, 9]
    metrics, groups = evaluate(config, runners, 0, [(), {5, 8}])
    # of 0 to 5 the row 5 is left out from the start, and 0, 1 and 2 turn out to be too long
    assert sorted(group.task.problem_index for group in groups) == [3, 4]
    assert metrics["evaluation/overlong_prompts"] == 5.0 and metrics["evaluation/num_problems"] == 2.0
    with pytest.raises(ValueError, match=r"evaluation\.envs\.0: the prompt of every problem has more than"):
        evaluate(config, runners, 0, [(), range(9)])


@pytest.mark.slow  # an engine of its own
def test_a_runner_drops_the_group_gives_its_environments_back_and_goes_on(ray_cluster: Any, tiny_models: Any):
    spec = replace(runner_spec(tiny_models["policy"]), overlong_prompts="drop", frozen=True)
    group = EnvRunnerGroup(spec, 1, num_cpus=0.5)
    try:
        work = [
            Task(env, index, seed=index, ordinal=index)
            for index, env in enumerate([LONG_PROMPTS, ARITHMETIC, LONG_PROMPTS, ARITHMETIC])
        ]
        for _ in range(2):  # the same again: nothing of the first is left
            assert [it.ordinal for it in sorted(group.sample(work, 3, SAMPLING, 0), key=lambda it: it.ordinal)] == [
                1,
                3,
            ]
        assert group.num_overlong == 4
        others = iter([[replace(work[1], seed=9), replace(work[3], seed=8)]])
        found = list(group.sample(work, 3, SAMPLING, 0, more=lambda number: next(others)[:number]))
        assert sorted(it.ordinal for it in found) == [0, 1, 2, 3]
    finally:
        group.stop()
