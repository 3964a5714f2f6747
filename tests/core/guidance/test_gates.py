"""Gates on literal tensors, what `Gate` reads from a signature, and what it refuses."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import Tensor

from tgpo_ray.guidance import (
    GATES,
    UNREADABLE_LOGPROB,
    Gate,
    GateInputs,
    accuracy_gate,
    confidence_gate,
    disagreement_gate,
    divergence_gate,
    drift_gate,
    failed_gate,
    truncation_gate,
)
from tgpo_ray.kernels import TokenRows

NAN = math.nan
REQUIRED = {"drift": {"budget": 2.0}, "truncation": {"coverage": 0.5}}


def test_gates_of_a_group_follow_its_mean_reward():
    success = torch.tensor([0.0, 0.25, 1.0])
    assert failed_gate(success).tolist() == [1.0, 0.0, 0.0]
    assert accuracy_gate(success).tolist() == [1.0, 0.75, 0.0]
    assert accuracy_gate(success, kappa=2.0).tolist() == [1.0, 0.5625, 0.0]
    assert accuracy_gate(success, kappa=0.0).tolist() == [1.0, 1.0, 1.0]


def test_disagreement_is_open_where_the_teacher_prefers_its_own_token_by_more_than_tau():
    own, sampled = torch.tensor([-0.5, -0.5, -0.5, -0.5]), torch.tensor([-0.5, -1.0, -3.0, NAN])
    assert disagreement_gate(own, sampled).tolist() == [0.0, 1.0, 1.0, 0.0]  # equal: the policy wrote that token
    assert disagreement_gate(own, sampled, tau=1.0).tolist() == [0.0, 0.0, 1.0, 0.0]


def test_confidence_is_a_power_of_the_teachers_probability():
    own = torch.log(torch.tensor([1.0, 0.5, 0.25]))
    torch.testing.assert_close(confidence_gate(own), torch.tensor([1.0, 0.5, 0.25]))
    torch.testing.assert_close(confidence_gate(own, kappa=2.0), torch.tensor([1.0, 0.25, 0.0625]))


def test_divergence_is_open_within_its_band():
    ratio = torch.tensor([-6.0, -5.0, 0.0, 5.0, 5.5, NAN])
    assert divergence_gate(ratio).tolist() == [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert divergence_gate(ratio, band=(-1000.0, 0.0)).tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_drift_ends_guidance_after_the_tokens_that_used_up_the_budget():
    """Sums before the tokens: 0, 1, 1, 3, 3 in the first response and 0, 5 in the second. A negative ratio is no
    credit, and an unknown one and a token of the environment add nothing."""
    ratio = torch.tensor([1.0, -4.0, 2.0, NAN, 9.0, 5.0, 1.0])
    mask = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    sequence = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    assert drift_gate(ratio, mask, sequence, budget=2.0).tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    assert drift_gate(ratio, mask, sequence, budget=3.0).tolist() == [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]  # not above it


def test_drift_does_not_depend_on_the_other_responses_of_a_batch():
    generator = torch.Generator().manual_seed(0)
    counts = [7, 1, 400, 30]
    sequence = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    ratio = torch.randn(len(sequence), generator=generator)
    mask = (torch.rand(len(sequence), generator=generator) > 0.1).float()
    whole = drift_gate(ratio, mask, sequence, budget=3.0)
    parts = [
        drift_gate(r, m, torch.zeros(len(r), dtype=torch.long), budget=3.0)
        for r, m in zip(ratio.split(counts), mask.split(counts), strict=True)
    ]
    assert torch.equal(whole, torch.cat(parts)) and 0.0 < whole.mean() < 1.0


@pytest.mark.parametrize("coverage", [0.1, 0.5, 0.8, 1.0])
def test_random_truncation_keeps_beginnings_of_the_given_mean_share(coverage):
    generator = torch.Generator().manual_seed(1)
    responses, length = 2000, 40
    sequence = torch.repeat_interleave(torch.arange(responses), length)
    mask = torch.ones(responses * length)
    mask[::4] = 0.0  # the environment's tokens count for nothing
    kept = truncation_gate(mask, sequence, torch.rand(responses * length, generator=generator), coverage=coverage)
    table = kept.view(responses, length)
    assert (table[:, 1:] <= table[:, :-1]).all()  # a beginning
    assert float((kept * mask).sum() / mask.sum()) == pytest.approx(coverage, abs=0.02)


def everything(logs: Tensor) -> GateInputs:
    """All inputs of a gate, of one response, made from these log-probabilities."""
    return GateInputs(
        mask=torch.ones(len(logs)),
        logprobs=logs,
        teacher_logprobs=logs,
        target_logprobs=logs,
        success=logs.abs(),
        sequence=torch.zeros(len(logs), dtype=torch.long),
        uniform=logs.abs(),
    )


@pytest.mark.parametrize("name", GATES)
def test_every_gate_is_empty_on_no_rows_and_gives_no_gradient(name):
    gate = Gate.of(GATES[name], REQUIRED.get(name))
    empty = everything(torch.zeros(0))
    assert gate(empty).shape == (0,)
    logs = torch.tensor([-0.5, -1.0], requires_grad=True)
    assert not gate(everything(logs)).requires_grad
    assert pickle.loads(pickle.dumps(gate)) == gate


def test_a_gate_says_what_it_asks_the_teacher_for():
    def of(name: str) -> Gate:
        return Gate.of(GATES[name], REQUIRED.get(name))

    assert of("failed").wants == of("accuracy").wants == set()
    assert of("disagreement").wants == {"logprob", "topk:1"}
    assert of("confidence").wants == {"topk:1"} and of("confidence").row_fields() == ("teacher.topk_logprobs",)
    assert of("divergence").wants == of("drift").wants == {"logprob"}
    assert of("truncation").wants == set() and of("truncation").row_fields() == ("episode.uniform",)
    assert {name for name in GATES if of(name).whole_responses} == {"drift", "truncation"}
    assert {name for name in GATES if of(name).needs_ratio} == {"divergence", "drift"}


def test_a_group_whose_rewards_shut_the_gate_needs_no_teacher():
    assert Gate.of(failed_gate).shuts(0.25) and not Gate.of(failed_gate).shuts(0.0)
    assert Gate.of(accuracy_gate).shuts(1.0) and not Gate.of(accuracy_gate).shuts(0.99)
    assert not Gate.of(confidence_gate).shuts(1.0)  # the rewards do not say


def longer_than(positions: Tensor, lengths: Tensor, *, share: float = 0.5) -> Tensor:
    return (positions > share * lengths).float() - 0.5


def test_a_factor_without_end_shuts_the_gate():
    inputs = GateInputs(torch.ones(2), logprobs=torch.tensor([-1.0, 0.0]))
    assert Gate(lambda logprobs: -1.0 / logprobs, ("logprobs",))(inputs).tolist() == [1.0, 0.0]


def test_a_gate_of_ones_own_has_inputs_and_options_by_its_signature():
    gate = Gate.of(longer_than, {"share": 0.25})
    assert gate.inputs == ("positions", "lengths") and gate.whole_responses and gate.wants == set()
    inputs = GateInputs(torch.ones(4), lengths=torch.full((4,), 4.0), sequence=torch.zeros(4, dtype=torch.long))
    assert gate(inputs).tolist() == [0.0, 0.0, 0.5, 0.5]  # below 0 is 0
    with pytest.raises(ValueError, match="needs 'positions', which is None"):
        gate(GateInputs(torch.ones(4), lengths=torch.ones(4)))
    with pytest.raises(ValueError, match=r"needs 'log_ratio'.*ask the teacher for 'logprob'"):
        Gate.of(divergence_gate)(GateInputs(torch.ones(4)))


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (accuracy_gate, {"kapa": 2.0}, "unknown option 'kapa'; did you mean 'kappa'"),
        (accuracy_gate, {"kappa": -1.0}, "kappa must be a finite number >= 0, got -1"),
        (accuracy_gate, {"kappa": "2"}, "kappa must be a number, got '2'"),
        (failed_gate, {"kappa": 2.0}, "unknown option 'kappa'; it takes none"),
        (disagreement_gate, {"tau": -0.1}, "tau must be a finite number >= 0, got -0.1"),
        (divergence_gate, {"band": [5.0, -5.0]}, r"band must be two numbers \[low, high\]"),
        (divergence_gate, {"band": 3.0}, r"band must be two numbers \[low, high\]"),
        (drift_gate, {}, "option 'budget' is required"),
        (drift_gate, {"budget": 0.0}, "budget must be > 0 nats, got 0"),
        (truncation_gate, {"coverage": 1.5}, r"coverage must be in \(0, 1\]"),
        (lambda logprob: logprob, {}, "knows no tensor 'logprob'; did you mean 'logprobs'"),
        (lambda logprobs: logprobs.sum(), {}, r"one number for each of N tokens, \(N,\), got \(\) for N = 3"),
        (lambda logprobs: 1.0, {}, "got float for N = 3"),
        (
            lambda success: 1.0 / (1.0 - success),
            {},
            r"must return finite numbers, got .* where success is 0, 0\.5 and 1",
        ),
        (lambda logprobs: {}["x"], {}, "the gate failed on three tokens: KeyError: 'x'"),
    ],
)
def test_a_wrong_gate_is_refused_with_its_reason(function, options, message):
    with pytest.raises(ValueError, match=message):
        Gate.of(function, options)


def test_inputs_from_rows_have_nan_where_the_teacher_said_nothing():
    rows = TokenRows(
        targets=torch.tensor([[1, 4], [2, 0], [3, 6]]),
        target_mask=torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]),
        advantages=torch.zeros(3),
        old_logprobs=None,
        sequence=torch.zeros(3, dtype=torch.long),
        lengths=torch.full((3,), 3.0),
        extra={
            "teacher.teacher_logprobs": torch.tensor([-1.0, NAN, UNREADABLE_LOGPROB]),
            "teacher.topk_logprobs": torch.tensor([[UNREADABLE_LOGPROB, -2.0], [NAN, NAN], [-0.5, -2.0]]),
            "group.success": torch.full((3,), 0.5),
        },
    )
    logprobs = torch.tensor([[-3.0, -1.0]] * 3, requires_grad=True)
    inputs = GateInputs.from_rows(logprobs, rows)
    assert inputs.teacher_ids is not None and inputs.teacher_ids.tolist() == [4, -1, 6]
    expected = torch.tensor([-2.0, NAN, NAN])
    torch.testing.assert_close(inputs.log_ratio, expected, equal_nan=True)
    torch.testing.assert_close(inputs.target_logprobs, torch.tensor([-2.0, NAN, -0.5]), equal_nan=True)
    assert inputs.logprobs is not None and not inputs.logprobs.requires_grad
    old = GateInputs.from_rows(logprobs, rows.replace(old_logprobs=torch.full((3,), -7.0)))
    assert old.logprobs is not None and old.logprobs.tolist() == [-7.0] * 3  # the policy that wrote the tokens
