"""Terms that are means over tokens stay so whatever the policy loss is divided by, in every method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.algorithms.driver_parts import config_of, without_actors
from tests.episodes import group_of_infos, make_info
from tgpo_ray.algorithms.advantages import compared_with, group_standardized, mean_centered
from tgpo_ray.algorithms.full_vocabulary import TeacherHead
from tgpo_ray.algorithms.luffy import LUFFYLoss
from tgpo_ray.kernels import LogitTransform, TokenRows

AGGREGATIONS = ("token", "sequence", "constant")
LENGTHS = (10, 30, 20, 40)  # Z = 100, B = 4; the second group is wholly wrong
RUNNERS = {"max_prompt_tokens": 50, "max_response_tokens": 50}
GROUPS = [
    group_of_infos(infos=[make_info(reward=1.0, length=10), make_info(length=30)]),
    group_of_infos(infos=[make_info(length=20), make_info(length=40)], ordinal=1),
]
TRACE = replace(make_info(reward=1.0, length=50), num_policy_tokens=0)
TRACED = [group_of_infos(infos=[*group.infos, TRACE], ordinal=group.ordinal) for group in GROUPS]


def method(name: str, /, **sections: Any) -> Any:
    """The method without actors. Its end-of-sequence ids would be read from the policy's folder, so none are masked."""
    given: dict[str, Any] = {"env_runners": RUNNERS, **sections}
    if name not in ("GRPO", "DrGRPO", "LUFFY", "PRIME"):
        given["teacher"] = {"path": "teacher"}
    if name in ("RKL", "OPDistill", "KDRL"):
        given["guidance"] = {"mask_teacher_at_eos": False, **sections.get("guidance", {})}
    algorithm = without_actors(config_of(name, **given))
    algorithm.teacher_head = TeacherHead("teacher", 7, LogitTransform())
    return algorithm


def one_row_each(groups: list[Any], **extra: Tensor) -> TokenRows:
    """A row for each response, advantage 0, that knows its response's length; the trace's are the teacher's."""
    infos = [info for group in groups for info in group.infos]
    number, ones = len(infos), torch.ones(len(infos), dtype=torch.float64)
    origin = torch.tensor([1.0 if info.num_policy_tokens else 2.0 for info in infos])
    return TokenRows(
        targets=torch.zeros(number, 2, dtype=torch.long),
        target_mask=torch.ones(number, 2, dtype=torch.float64),
        advantages=0.0 * ones,
        old_logprobs=None,
        sequence=torch.arange(number),
        lengths=torch.tensor([float(info.num_response_tokens) for info in infos], dtype=torch.float64),
        extra={"episode.origin": origin, "advantage.values": 0.0 * ones, **extra},
    )


def shares(algorithm: Any, groups: list[Any], part: str, rows: TokenRows) -> Tensor:
    """(N,) what one token of each response adds to the step, of one part of the loss."""
    logprobs, entropy = (
        torch.full((len(rows), 2), -1.0, dtype=torch.float64),
        torch.ones(len(rows), dtype=torch.float64),
    )
    return algorithm.loss(groups).parts(logprobs, entropy, rows)[part] / algorithm.denominator(groups)


def every(value: float, number: int = 4) -> Tensor:
    return torch.full((number,), value, dtype=torch.float64)


# ---- the entropy bonus


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("name", ["GRPO", "DrGRPO", "TGPO", "TGPOR", "RKL", "OPDistill", "KDRL", "PRIME", "MiniLLM"])
def test_the_entropy_bonus_is_a_mean_over_tokens(name, aggregation):
    algorithm = method(name, training={"entropy_weight": 0.01, "loss_aggregation": aggregation})
    taught = {"teacher.teacher_logprobs": every(-2.0), "episode.correct": every(0.0)}
    rows = one_row_each(GROUPS, **taught)
    torch.testing.assert_close(shares(algorithm, GROUPS, "entropy", rows), every(-0.01 / 100))
    assert algorithm.needs_batch or aggregation == "token"  # the counts are those of the whole update


def test_luffys_entropy_bonus_is_a_mean_over_all_trained_tokens():
    """100 tokens of rollouts and 100 of traces. Divided by B L = 300 it would be 0.001 / 300 at any length."""
    algorithm = method("LUFFY", training={"entropy_weight": 0.001})
    share = shares(algorithm, TRACED, "entropy", one_row_each(TRACED))
    torch.testing.assert_close(share, every(-0.001 / 200, 6))


def test_without_an_entropy_bonus_dr_grpo_still_streams():
    assert not method("DrGRPO").needs_batch


# ---- KDRL's term


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(
    ("only", "denominator", "tokens"),
    [("all", "all", 100), ("incorrect_responses", "all", 100), ("incorrect_responses", "kept", 90)],
)
def test_kdrls_term_is_a_mean_over_the_tokens_that_denominator_names(aggregation, only, denominator, tokens):
    guidance = {"weight": 0.5, "only": only, "denominator": denominator}
    algorithm = method("KDRL", training={"loss_aggregation": aggregation}, guidance=guidance)
    kept = torch.tensor([float(only == "all"), 1.0, 1.0, 1.0], dtype=torch.float64)
    correct = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    rows = one_row_each(GROUPS, **{"teacher.teacher_logprobs": every(-3.0), "episode.correct": correct})
    # k2: (log q - log p)^2 / 2 = 2^2 / 2
    expected = kept * 0.5 * 2.0 / tokens
    torch.testing.assert_close(shares(algorithm, GROUPS, "distillation", rows), expected)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_kdrls_log_ratio_in_the_advantage_is_aggregated_as_the_policy_loss_over_the_kept(aggregation):
    guidance = {"weight": 0.5, "only": "incorrect_responses", "denominator": "kept", "style": "advantage"}
    algorithm = method("KDRL", training={"loss_aggregation": aggregation}, guidance=guidance)
    correct = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    rows = one_row_each(GROUPS, **{"teacher.teacher_logprobs": every(-3.0), "episode.correct": correct})
    share = shares(algorithm, GROUPS, "policy", rows)  # -r A = -0.5 (log q - log p) = 1 on kept tokens
    lengths = rows.lengths
    expected = {"token": every(1 / 90), "sequence": 1.0 / (3 * lengths), "constant": every(1 / (3 * 50))}[aggregation]
    torch.testing.assert_close(share, (1.0 - correct) * expected)


# ---- MiniLLM's single step


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_minillms_single_step_is_a_mean_over_tokens(aggregation):
    algorithm = method("MiniLLM", training={"loss_aggregation": aggregation})
    divergence = algorithm.loss(GROUPS).divergence
    assert divergence.weight / algorithm.denominator(GROUPS) == pytest.approx(1 / 100)


# ---- LUFFY and RL + SFT


@pytest.mark.parametrize(("aggregation", "denominator"), [("token", 200.0), ("sequence", 6.0), ("constant", 300.0)])
def test_shaped_traces_count_in_luffys_denominator(aggregation, denominator):
    assert method("LUFFY", training={"loss_aggregation": aggregation}).denominator(TRACED) == denominator


CLEAN = {
    "group_size": 3,
    "trace_loss": "nll",
    "trace_in_mean": False,
    "standardize_advantages": True,
    "ratio_clip": True,
}


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_rl_plus_sft_is_grpo_of_the_rollouts_and_a_mean_likelihood_of_the_traces(aggregation):
    luffy = method("LUFFY", training={**CLEAN, "loss_aggregation": aggregation, "trace_weight": 0.5})
    grpo = method("GRPO", training={"group_size": 2, "loss_aggregation": aggregation})
    assert luffy.denominator(TRACED) == grpo.denominator(GROUPS) and luffy.needs_batch
    rows = one_row_each(TRACED)
    rollouts = rows.extra["episode.origin"] == 1
    for with_traces, alone in zip(luffy.advantages(TRACED), grpo.advantages(GROUPS), strict=True):
        np.testing.assert_array_equal(with_traces[:-1], alone)
    rows = rows.replace(advantages=torch.tensor(np.concatenate(luffy.advantages(TRACED))))
    alone = one_row_each(GROUPS).replace(advantages=rows.advantages[rollouts])
    for part in ("policy", "entropy"):
        share = shares(luffy, TRACED, part, rows)
        torch.testing.assert_close(share[rollouts], shares(grpo, GROUPS, part, alone))
        assert not share[~rollouts].any()
    # -log p = 1, the traces have 100 tokens
    torch.testing.assert_close(shares(luffy, TRACED, "trace", rows), torch.where(rollouts, 0.0, every(0.5 / 100, 6)))


def test_an_all_wrong_group_beside_a_trace_has_no_advantage():
    wrong = [group_of_infos(infos=[make_info() for _ in range(7)] + [TRACE])]
    clean = method("LUFFY", training={**CLEAN, "group_size": 8}).advantages(wrong)[0]
    assert not clean.any()  # nor has the trace, which is supervised
    as_luffy = method("LUFFY").advantages(wrong)[0]
    np.testing.assert_allclose(as_luffy, [-1 / 8] * 7 + [7 / 8])


def test_rewards_compared_with_all_or_with_some_of_a_group():
    rewards, rollouts = np.array([1.0, 0.0, 0.0, 1.0]), np.array([True, True, True, False])
    everyone = np.ones(4, bool)
    np.testing.assert_array_equal(compared_with(rewards, everyone, standardized=False), mean_centered(rewards))
    np.testing.assert_array_equal(compared_with(rewards, everyone, standardized=True), group_standardized(rewards))
    # mean 1/3, deviation (ddof 1) sqrt(1/3)
    centered = np.array([2 / 3, -1 / 3, -1 / 3, 2 / 3])
    np.testing.assert_allclose(compared_with(rewards, rollouts, standardized=False), centered)
    standardized = centered / (np.sqrt(1 / 3) + 1e-6)
    np.testing.assert_allclose(compared_with(rewards, rollouts, standardized=True), standardized)


def test_traces_under_a_likelihood_have_no_other_term():
    rows = one_row_each(TRACED, **{"reference.teacher_logprobs": every(-2.0, 6)})
    loss = LUFFYLoss(trace_loss="nll", entropy_weight=0.1, kl_weight=0.3, per_sequence=True)
    parts = loss.parts(torch.full((6, 2), -1.0, dtype=torch.float64), every(1.0, 6), rows)
    traces = rows.extra["episode.origin"] == 2
    assert {name for name, values in parts.items() if values[traces].any()} == {"trace"}
    assert parts["trace"][traces].tolist() == [1.0, 1.0]  # not over the length: the step divides by all traces' tokens
