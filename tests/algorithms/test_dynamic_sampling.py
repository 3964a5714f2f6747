"""Dynamic sampling without actors: which groups are replaced, by which tasks, and where it stops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.algorithms.driver_parts import config_of, without_actors
from tests.core.env_runners.answered_runners import AnsweredRunners, cursor
from tests.episodes import group_of_rewards
from tgpo_ray.driver.rollouts import Batches, OnPolicyRollouts
from tgpo_ray.driver.sampler_watch import SamplerWatch
from tgpo_ray.driver.stage_times import StageTimes
from tgpo_ray.env_runners.sampling_session import SamplingSession
from tgpo_ray.episode import SampledGroup, Task
from tgpo_ray.kernels import TokenLoss
from tgpo_ray.models.engine_spec import Sampling

SAMPLING = Sampling(8)


class AnsweredAtOnce(SamplingSession):
    """A session whose rounds are answered at once: a problem of even index teaches nothing. Last tasks finish first."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    def _round(self, tasks: Sequence[Task]) -> Iterator[SampledGroup]:
        self._rounds.rounds.append(list(tasks))
        for task in reversed(tasks):
            yield replace(group_of_rewards(rewards=self._rounds.rewards(task), ordinal=task.ordinal), task=task)

    def abort(self) -> None:
        pass


class Rounds(AnsweredRunners):
    """Runners that keep the tasks of each round."""

    session = AnsweredAtOnce

    def rewards(self, task: Task) -> list[float]:
        return [0.0, 0.0] if task.problem_index % 2 == 0 else [1.0, 0.0]


def teaches(group: SampledGroup) -> bool:
    return len(set(group.rewards)) > 1


def test_refused_groups_are_replaced_under_their_ordinals():
    tasks, runners = cursor(), Rounds()
    found = list(runners.sample(tasks.next(4), 2, SAMPLING, 7, keep=teaches, more=tasks.next))
    # 0 1 2 3: 0 and 2 are refused; 4 5 for them: 4 is refused; 6 for it, and 7 for that
    assert [[task.problem_index for task in tasks] for tasks in runners.rounds] == [[0, 1, 2, 3], [4, 5], [6], [7]]
    assert sorted((group.ordinal, group.task.problem_index) for group in found) == [(0, 7), (1, 1), (2, 5), (3, 3)]
    assert tasks.drawn == [8]  # the cursor's state says how far it went: a restored run goes on there


def test_what_is_still_refused_after_the_last_round_is_left_out_and_nothing_is_drawn_for_it():
    tasks, runners = cursor(), Rounds()
    found = list(runners.sample(tasks.next(4), 2, SAMPLING, 7, keep=teaches, more=tasks.next, max_rounds=2))
    assert sorted(group.ordinal for group in found) == [1, 2, 3]
    assert tasks.drawn == [6]


def test_without_a_filter_there_is_one_round():
    tasks, runners = cursor(), Rounds()
    assert len(list(runners.sample(tasks.next(4), 2, SAMPLING, 7))) == 4
    assert len(runners.rounds) == 1


def test_a_filter_needs_to_know_where_other_tasks_come_from():
    with pytest.raises(ValueError, match="keep needs more"):
        list(Rounds().sample(cursor().next(1), 2, SAMPLING, 7, keep=teaches))


# ---- the algorithm


class Learners:
    """Takes whatever it is given; what matters here is which groups those are."""

    def __init__(self) -> None:
        self.groups: list[SampledGroup] = []

    def accumulate(self, groups: Sequence[SampledGroup], advantages: Sequence[Any], loss: TokenLoss) -> None:
        self.groups += groups

    def take_busy_s(self) -> float:
        return 0.0


def algorithm_with(runners: Rounds, **training: Any) -> Any:
    sections = {"groups_per_iteration": 4, "group_size": 2, "dynamic_sampling": True, "updates_per_iteration": 2}
    algorithm = without_actors(config_of("GRPO", training=sections | training))
    algorithm.env_runners, algorithm.learners = runners, Learners()
    algorithm.batches, algorithm.source = Batches(cursor(), 4), OnPolicyRollouts(algorithm)
    algorithm.watch = SamplerWatch(algorithm, ahead=False)
    algorithm.times, algorithm.weights = StageTimes(), SimpleNamespace(version=1)
    return algorithm


def test_grpo_trains_on_groups_that_teach_and_remembers_the_others():
    algorithm = algorithm_with(Rounds())
    assert all(map(teaches, algorithm.sample()))
    assert [[info.reward for info in infos] for infos in algorithm.refused] == [[0.0, 0.0]] * 4


def test_without_dynamic_sampling_every_group_is_trained_on():
    algorithm = algorithm_with(Rounds(), dynamic_sampling=False)
    algorithm.refused = [()]  # as if an iteration before had refused a group
    assert len(list(algorithm.sample())) == 4 and not algorithm.refused


def test_a_policy_that_can_learn_nothing_ends_the_run_with_a_reason():
    class NothingTeaches(Rounds):
        def rewards(self, task: Task) -> list[float]:
            return [1.0, 1.0]

    algorithm = algorithm_with(NothingTeaches(), max_sampling_rounds=3)
    with pytest.raises(RuntimeError, match="dynamic sampling refused all 12 groups of 3 rounds: the problems are too"):
        algorithm.training_step()


def test_the_filter_reads_the_environments_rewards_and_not_the_shaped_ones():
    """Two right answers of different lengths: overlong shaping tells them apart, and still nothing is learned."""
    algorithm = algorithm_with(Rounds(), overlong_buffer=10)
    group = group_of_rewards(rewards=[1.0, 1.0], lengths=[5, 2047])
    assert algorithm.advantages([group])[0].any() and not algorithm.keep(group)
