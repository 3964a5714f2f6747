"""Episodes whose verifier failed: scored zero, left out, or the end of the run. Real learners and runners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.episodes import group_of_infos, make_info
from tgpo_ray.algorithms.grpo import GRPO
from tgpo_ray.driver.verifier_failures import VerifierFailures
from tgpo_ray.episode import SampledGroup
from tgpo_ray.learners.group import LearnerGroup
from tgpo_ray.learners.learner import LearnerSpec
from tgpo_ray.learners.planning import Piece
from tgpo_ray.learners.strategies import StrategyOptions
from tgpo_ray.learners.train_run import Placement

FAILED_PLACES = {0: {1: "timeout"}, 1: {0: "error", 1: "error", 2: "timeout"}}
"""Group -> episode -> outcome, as `FailingVerifiers` has it: group 1 is left with a single episode."""


def group_of(*outcomes: str, members: tuple[int, ...] | None = None) -> SampledGroup:
    """A group with prompts of 3 tokens and responses of 1, 2, 3, ... tokens."""
    infos = [
        make_info(reward=float(outcome == "correct"), length=length, prompt_length=3, outcome=outcome)
        for length, outcome in enumerate(outcomes, start=1)
    ]
    return group_of_infos(infos=infos, members=members)


def passed(mode: str, *groups: SampledGroup, share: float = 0.25, least: int = 2) -> list[SampledGroup]:
    failures = VerifierFailures(mode, share, least)
    found = [failures.passed(group) for group in groups]
    failures.check()
    return [group for group in found if group is not None]


def test_score_zero_passes_everything_on() -> None:
    groups = [group_of("timeout", "error"), group_of("correct", "wrong")]
    assert passed("score_zero", *groups) == groups


def test_dropped_episodes_leave_rewards_and_denominators() -> None:
    whole, some = group_of("wrong", "correct"), group_of("correct", "timeout", "wrong", "error", "unparsable")
    kept = passed("drop_episode", whole, some)
    assert kept[0] is whole
    assert kept[1].members == (0, 2, 4)
    assert kept[1].rewards == [1.0, 0.0, 0.0]
    assert kept[1].num_policy_tokens == 1 + 3 + 5


def test_a_group_with_nobody_left_to_compare_with_is_left_out_whole() -> None:
    groups = [group_of("correct", "timeout", "error"), group_of("correct", "wrong")]
    assert passed("drop_episode", *groups) == groups[1:]
    assert [group.members for group in passed("drop_episode", *groups, least=1)] == [(0,), None]


def test_an_iteration_without_any_group_left_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match=r"100\.0% .* \(2 ran past their deadline, 0 crashed\), and .* drop_episode"):
        passed("drop_episode", group_of("timeout", "timeout"))


def test_fail_ends_the_run_above_the_share_and_not_at_it() -> None:
    groups = [group_of("correct", "wrong", "wrong", "timeout"), group_of("wrong", "wrong", "error", "wrong")]
    assert passed("fail", *groups) == groups
    with pytest.raises(RuntimeError, match=r"25\.0% .* \(1 ran past their deadline, 1 crashed\), above .* = 0\.2: run"):
        passed("fail", *groups, share=0.2)


def test_keeping_some_of_some_names_the_episodes_behind_the_reference() -> None:
    group = group_of("wrong", "wrong", "correct", members=(1, 4, 6))
    assert group.keeping([0, 2]).members == (1, 6)


def test_learners_get_the_advantages_of_the_episodes_that_are_left() -> None:
    learners = object.__new__(LearnerGroup)  # planning needs no rank
    learners.placement, learners.token_budget = Placement(num_learners=1), 1000
    learners.spec = LearnerSpec("policy", "policy", StrategyOptions("torch"))
    (group,) = passed("drop_episode", group_of("correct", "timeout", "wrong", "error"))
    (((piece,),),) = learners._plan([group], [np.asarray([0.7, -0.7])])
    assert isinstance(piece, Piece)
    assert piece.members == (0, 2)
    assert [piece.advantages[i] for i in piece.members] == pytest.approx([0.7, -0.7])


class FailingVerifiers(GRPO):
    """Has verifiers fail in the places of `FAILED_PLACES`."""

    def sample(self) -> Iterator[SampledGroup]:
        for group in super().sample():
            failed = FAILED_PLACES.get(group.ordinal, {})
            infos = (
                replace(info, outcome=failed[place], reward=0.0) if place in failed else info
                for place, info in enumerate(group.infos)
            )
            yield replace(group, infos=tuple(infos))


@pytest.fixture(scope="module")
def algorithm(make_config: Callable[..., Any], env_runners: Any) -> Iterator[FailingVerifiers]:
    config = make_config(
        "GRPO",
        training={"updates_per_iteration": 2},
        fault_tolerance={"verifier_failures": "drop_episode"},
    )
    algorithm = FailingVerifiers(config, env_runners=env_runners)
    yield algorithm
    algorithm.stop()


@pytest.mark.slow
def test_a_run_trains_on_what_is_left_and_counts_what_is_not(algorithm: FailingVerifiers) -> None:
    metrics = algorithm.train()
    kept = {group.ordinal: group.members for group in algorithm.sampled}
    assert kept == {0: (0, 2, 3), 2: None, 3: None}
    assert metrics["outcome/timeout"] == 2 / 16 and metrics["outcome/error"] == 2 / 16
    assert np.isfinite(metrics["optimizer/grad_norm"])
    assert algorithm.weights.version > 0


@pytest.mark.slow
def test_the_same_failures_end_a_run_that_does_not_want_them(
    algorithm: FailingVerifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(algorithm.config.fault_tolerance, "verifier_failures", "fail")
    with pytest.raises(RuntimeError, match=r"25\.0% of the iteration's verifications failed"):
        algorithm.train()
