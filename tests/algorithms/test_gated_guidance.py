"""TGPO's loss with a gate: value, gradient, metrics, and the same sums however a batch is split."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.algorithms.driver_parts import config_of, without_actors
from tests.algorithms.oracles import (
    LOG_Q,
    SAMPLED,
    P,
    one_hot,
    one_position,
    random_logits,
    random_rows,
    through_kernel,
)
from tests.core.learners.learner_cases import episode, spec_of
from tests.episodes import random_episode
from tgpo_ray.algorithms.gate_config import DIAGNOSTICS, merged
from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss, SoftGuidedPolicyLoss
from tgpo_ray.config import ConfigError
from tgpo_ray.episode import EpisodeGroup, Guidance, SampledGroup, Task
from tgpo_ray.guidance import GATES, Gate
from tgpo_ray.kernels import TokenRows
from tgpo_ray.learners.learner import Learner
from tgpo_ray.learners.planning import Piece, plan_micro_batches

TEACHER = {"teacher": {"path": "teacher"}}
OPTIONS: dict[str, dict[str, Any]] = {
    "failed": {},
    "accuracy": {"kappa": 2.0},
    "disagreement": {"tau": 0.5},
    "confidence": {"kappa": 0.5},
    "divergence": {"band": [-1.0, 1.0]},
    "drift": {"budget": 0.3},
    "truncation": {"coverage": 0.6},
}


def gate_of(name: str) -> Gate:
    return Gate.of(GATES[name], OPTIONS[name])


def with_fields(rows: TokenRows, *, seed: int = 0) -> TokenRows:
    """The rows with everything that a gate may ask for; one token in six has no answer."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    n = len(rows)
    sampled = -3.0 * noise(n)
    sampled[::6] = math.nan
    fields = {"teacher.teacher_logprobs": sampled, "teacher.topk_logprobs": -noise(n, 1), "episode.uniform": noise(n)}
    return rows.with_extra(**fields, **{"group.success": (rows.sequence % 2) * 0.5})


@pytest.mark.parametrize("name", GATES)
def test_a_gate_multiplies_value_and_gradient_of_guidance_and_nothing_else(name):
    rows, logits = with_fields(random_rows()), random_logits()
    loss = GuidedPolicyLoss(guidance_weight=0.3, entropy_weight=0.01, gate=gate_of(name))
    plain = replace(loss, gate=None)
    logprobs = torch.log_softmax(logits, -1).gather(1, rows.targets)
    prepared = loss.prepare(logprobs, rows)
    factor = loss.factor(logprobs, prepared)
    assert isinstance(factor, torch.Tensor) and 0.0 < float(factor.sum()) < len(rows)
    leaf = logits.clone().requires_grad_()
    by_hand = torch.log_softmax(leaf, -1).gather(1, rows.targets)
    probabilities = torch.softmax(leaf, -1)
    entropy = -(probabilities * probabilities.log()).sum(-1)
    base = plain.parts(by_hand, entropy, rows)
    expected = base["policy"] + base["entropy"] + factor * base["guidance"]
    (gradient,) = torch.autograd.grad(expected.sum(), leaf)
    value, ours = through_kernel(loss, rows, logits)
    assert value == pytest.approx(expected.sum().item(), abs=1e-12)
    torch.testing.assert_close(ours, gradient)


def test_a_gate_of_one_half_halves_the_fixed_vectors_guidance():
    """g = pi_T(y^T) = .70978...: the gradient is g w (p - e_y)."""
    rows = one_position().with_extra(**{"teacher.topk_logprobs": LOG_Q.max()[None, None]})
    value, gradient = through_kernel(GuidedPolicyLoss(guidance_weight=2.0, gate=Gate.of(GATES["confidence"])), rows)
    factor = LOG_Q.max().exp()
    torch.testing.assert_close(gradient[0], 2.0 * factor * (P - one_hot(1)))
    assert value == pytest.approx(float(-2.0 * factor * P[1].log()), abs=1e-12) and SAMPLED == 0


def test_a_gate_weighs_the_top_k_too():
    best = LOG_Q.topk(2)
    rows = one_position(targets=(SAMPLED, *best.indices.tolist()))
    rows = rows.with_extra(**{"teacher.topk_logprobs": best.values[None]})
    plain = through_kernel(SoftGuidedPolicyLoss(guidance_weight=1.0), rows)
    gated = through_kernel(SoftGuidedPolicyLoss(guidance_weight=1.0, gate=Gate.of(GATES["confidence"])), rows)
    torch.testing.assert_close(gated[1], best.values[0].exp() * plain[1])


def test_metrics_have_the_gates_mean_and_share_over_guided_tokens_and_the_ratio_with_it():
    rows = with_fields(random_rows())
    logprobs = torch.log_softmax(random_logits(), -1).gather(1, rows.targets)
    loss = GuidedPolicyLoss(guidance_weight=0.3, gate=gate_of("accuracy"))
    figures = loss.metrics(logprobs, None, rows)
    guided = rows.target_mask[:, 1]
    factor = (1.0 - rows.extra["group.success"]) ** 2
    assert figures["guidance/gate"] == (pytest.approx((factor * guided).sum()), guided.sum())
    assert figures["guidance/gate_open"] == (guided.sum(), guided.sum())  # 1 and 1/4: open everywhere
    norm = (0.3 * factor * guided * (1.0 - logprobs[:, 1].exp())).sum()
    assert float(figures["guidance/gradient_norm"][0]) == pytest.approx(float(norm))
    assert float(figures["guidance/gradient_ratio"][0]) == pytest.approx(float(norm))
    assert "guidance/gate" not in GuidedPolicyLoss().metrics(logprobs, None, rows)


# ---- over micro-batches and ranks, with padding


def answered(seed: int, length: int) -> Any:
    rng = np.random.default_rng(seed)
    one = episode(seed, length, environment=slice(1, 2))
    said = replace(
        one.guidance["teacher"],
        teacher_logprobs=-3.0 * rng.random(length, np.float32),
        topk_logprobs=-rng.random((length, 1), np.float32),
        topk_ids=rng.integers(0, 9, (length, 1)).astype(np.int32),
    )
    return replace(one, guidance={"teacher": said})


def groups() -> list[Piece]:
    lengths, success = [(9, 3), (6, 1), (4, 12), (5, 5)], [0.0, 0.5, 1.0, 0.25]
    pieces = []
    for ordinal, (pair, mean) in enumerate(zip(lengths, success, strict=True)):
        members = tuple(answered(10 * ordinal + i, length) for i, length in enumerate(pair))
        advantages = np.asarray([1.0, -1.0], np.float32)
        pieces.append(Piece(ordinal, EpisodeGroup(members), {}, advantages, (0, 1), mean))
    return pieces


@pytest.fixture(scope="module")
def learner(tiny_models) -> Learner:
    return Learner(spec_of(tiny_models["policy"]))


@pytest.mark.parametrize("name", GATES)
def test_gradients_and_metrics_do_not_depend_on_micro_batches_ranks_or_padding(learner, name):
    """The plan of two ranks is walked by one learner: their gradients and sums are added up in any case."""
    pieces = groups()
    lengths = {it.ordinal: [len(one.prompt_ids) + len(one.response_ids) for one in it.ref.episodes] for it in pieces}
    loss = GuidedPolicyLoss(guidance_weight=0.3, gate=gate_of(name), diagnostics=DIAGNOSTICS["full"])
    results = []
    for num_ranks, budget in ((1, 10_000), (2, 40)):
        plan = plan_micro_batches(pieces, lengths, num_ranks, budget)
        sums: dict[str, np.ndarray] = {}
        for share in plan:
            for figure, pair in learner.accumulate(share, loss).items():
                sums[figure] = sums.get(figure, np.zeros(2)) + pair
        gradients = {
            key: it.grad.clone() for key, it in learner._strategy.module.named_parameters() if it.grad is not None
        }
        learner._strategy.module.zero_grad(set_to_none=True)
        results.append((sums, gradients))
    (whole, left), (split, right) = results
    scale = max(float(it.abs().max()) for it in left.values())
    assert max(float((left[key] - right[key]).abs().max()) for key in left) <= 2e-6 * scale
    assert {"guidance/gate", "guidance/gate_open", "guidance/topk_agreement", "guidance/confidence"} <= whole.keys()
    for figure in whole:
        if figure != "guidance/log_ratio_p95":  # a mean of the micro-batches' percentiles
            np.testing.assert_allclose(whole[figure], split[figure], rtol=1e-4, atol=1e-4, err_msg=figure)


# ---- configuration and the driver


def group(rewards: list[float]) -> SampledGroup:
    infos = tuple(random_episode(rng=np.random.default_rng(0), length=3, reward=reward).info() for reward in rewards)
    return SampledGroup(0, Task(0, 0, 0), infos, None)


def test_the_teacher_is_asked_for_what_gate_label_and_diagnostics_need():
    def asked(**guidance: Any) -> set[str]:
        return without_actors(config_of("TGPO", **TEACHER, guidance=guidance)).wanted()

    assert asked() == {"argmax"}
    assert asked(gate="accuracy") == {"argmax"}
    assert asked(gate="confidence") == {"argmax", "topk:1"}
    assert asked(gate="disagreement", label="sample") == {"sample", "logprob", "topk:1"}
    assert asked(gate="confidence", label="topk", top_k=5) == {"topk:5"}  # its first is the likeliest
    assert asked(gate="drift", gate_options={"budget": 5.0}) == {"argmax", "logprob"}
    assert asked(diagnostics="light") == {"argmax", "logprob"}
    assert asked(diagnostics="full", gate="confidence") == {"argmax", "logprob", "topk:20"}
    assert merged({"topk:3", "topk:20", "logprob"}) == {"topk:20", "logprob"}


def test_groups_that_the_rewards_shut_are_not_sent_to_the_teacher():
    failed = without_actors(config_of("TGPO", **TEACHER, guidance={"gate": "failed"}))
    assert failed.asks_teacher(group([0.0, 0.0])) and not failed.asks_teacher(group([0.0, 1.0]))
    faded = without_actors(config_of("TGPO", **TEACHER, guidance={"gate": "accuracy"}))
    assert faded.asks_teacher(group([0.0, 1.0])) and not faded.asks_teacher(group([1.0, 1.0]))
    assert without_actors(config_of("TGPO", **TEACHER)).asks_teacher(group([1.0, 1.0]))
    assert group([-1.0, 0.5, 7.0]).success == pytest.approx(0.5)  # each cut to [0, 1]


def test_the_loss_gets_gate_and_diagnostics():
    sections = {"guidance": {"gate": "drift", "gate_options": {"budget": 5.0}, "diagnostics": "full"}}
    loss = without_actors(config_of("TGPO", **TEACHER, **sections)).loss([group([0.0, 1.0])])
    assert loss.gate == Gate.of(GATES["drift"], {"budget": 5.0}) and loss.needs_sequence
    assert loss.row_fields == ("teacher.teacher_logprobs", "teacher.topk_ids", "teacher.topk_logprobs")
    assert not GuidedPolicyLoss().needs_sequence and GuidedPolicyLoss().row_fields == ()


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        ({"gate": "acuracy"}, "guidance.gate: expected 'none', 'failed', 'accuracy'.*; did you mean 'accuracy'"),
        ({"gate": "no.such:gate"}, "guidance.gate: cannot import 'no.such:gate'"),
        ({"gate": "math:pi"}, "guidance.gate: 'math:pi' is no function, got float"),
        ({"gate": "drift"}, "guidance.gate_options: gate drift: option 'budget' is required"),
        ({"gate": "accuracy", "gate_options": {"kapa": 1.0}}, "gate accuracy: unknown option 'kapa'; did you mean"),
        ({"gate_options": {"kappa": 1.0}}, "guidance.gate_options: belong to a gate"),
    ],
)
def test_a_wrong_gate_ends_the_configuration_with_its_key(guidance, message):
    with pytest.raises(ConfigError, match=message):
        config_of("TGPO", **TEACHER, guidance=guidance).check(files=False)


@pytest.mark.parametrize(
    "guidance", [{"gate": "divergence"}, {"gate": "drift", "gate_options": {"budget": 1.0}}, {"diagnostics": "light"}]
)
def test_log_ratios_need_temperature_one(guidance):
    config = config_of("TGPO", **TEACHER, guidance=guidance, env_runners={"temperature": 0.7})
    key = next(iter(guidance))
    with pytest.raises(ConfigError, match=rf"guidance\.{key}: .* needs env_runners.temperature 1.0, got 0.7"):
        config.check(files=False)
    config_of("TGPO", **TEACHER, guidance={"gate": "confidence"}, env_runners={"temperature": 0.7}).check(files=False)


def test_plan_says_the_gate():
    config = config_of("TGPO", **TEACHER, guidance={"gate": "drift", "gate_options": {"budget": 5.0}})
    assert config.guidance.facts(config)["gate"] == "drift (budget 5.0)"
    assert "gate" not in config_of("TGPO", **TEACHER).guidance.facts(config)


def test_guidance_fields_travel_to_the_rows():
    one = answered(0, 4)
    assert isinstance(one.guidance["teacher"], Guidance) and one.guidance["teacher"].topk_logprobs.shape == (4, 1)
