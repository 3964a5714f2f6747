"""What GRPO, Dr. GRPO, TGPO and TGPO_R do on the driver: advantages, denominators, losses, weights, refused options."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.algorithms.driver_parts import config_of, without_actors
from tests.algorithms.oracles import random_logits, random_rows, through_kernel
from tests.episodes import group_of_rewards
from tgpo_ray.algorithms.tgpor import ShapedPolicyLoss
from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss, PolicyLoss, SoftGuidedPolicyLoss

TEACHER = {"teacher": {"path": "teacher"}}
GROUPS = [  # Z = 100, B = 4
    group_of_rewards(rewards=[1.0, 0.0], lengths=[10, 30]),
    group_of_rewards(rewards=[0.0, 0.0], lengths=[20, 40], ordinal=1),
]
RUNNERS = {"max_prompt_tokens": 50, "max_response_tokens": 50}


def grpo(**training: object):
    return without_actors(config_of("GRPO", training=training, env_runners=RUNNERS))


# ---- what a step divides by


@pytest.mark.parametrize(("aggregation", "denominator"), [("token", 100.0), ("sequence", 4.0), ("constant", 200.0)])
def test_denominator_of_each_aggregation(aggregation, denominator):
    assert grpo(loss_aggregation=aggregation).denominator(GROUPS) == denominator


def test_doubling_a_response_doubles_its_share_of_a_token_mean_and_leaves_that_of_a_sequence_mean():
    for aggregation, shares in (("token", (10 / 40, 20 / 50)), ("sequence", (1 / 2, 1 / 2))):
        algorithm = grpo(loss_aggregation=aggregation)
        for length, share in zip((10, 20), shares, strict=True):
            group = group_of_rewards(rewards=[1.0, 0.0], lengths=[length, 30])
            of_first = length * (1 / length if algorithm.loss([group]).per_sequence else 1.0)
            assert of_first / algorithm.denominator([group]) == pytest.approx(share)


def test_constant_aggregation_does_not_know_how_long_the_batch_is():
    """The longest response, and with it the padding, may be anything: a token's share stays 1 / (B L_max)."""
    algorithm = without_actors(config_of("DrGRPO", env_runners=RUNNERS))
    groups = [group_of_rewards(rewards=[1.0, 0.0], lengths=[10, length]) for length in (1, 20, 50)]
    assert [algorithm.denominator([group]) for group in groups] == [100.0] * 3
    assert not algorithm.loss(GROUPS).per_sequence


@pytest.mark.parametrize(
    ("aggregation", "said"),
    [
        ("token", "policy tokens of an update over all learners, at most 25,600"),
        ("sequence", "episodes of an update over all learners, 512"),
        ("constant", "512 episodes of an update x max_response_tokens = 25,600"),
    ],
)
def test_the_plan_says_what_a_step_divides_by(aggregation, said):
    config = config_of("GRPO", training={"loss_aggregation": aggregation}, env_runners=RUNNERS)
    assert config.resolved(gpus=False).facts()["denominator Z"] == said


# ---- advantages


def test_equal_rewards_give_zero_advantages_and_still_guidance():
    tgpo = without_actors(config_of("TGPO", **TEACHER))
    assert not tgpo.advantages(GROUPS)[1].any()
    rows = random_rows()
    rows = rows.replace(advantages=torch.zeros_like(rows.advantages))
    for loss, taught in ((grpo(entropy_weight=0.0).loss(GROUPS), False), (tgpo.loss(GROUPS), True)):
        loss = replace(loss, entropy_weight=0.0)
        assert bool(through_kernel(loss, rows, random_logits())[1].any()) is taught


def test_dr_grpo_does_not_divide_by_the_deviation():
    algorithm = without_actors(config_of("DrGRPO"))
    np.testing.assert_allclose(algorithm.advantages(GROUPS)[0], [0.5, -0.5])
    # mean 0.5, deviation (ddof 1) sqrt(0.5)
    np.testing.assert_allclose(grpo().advantages(GROUPS)[0], np.array([0.5, -0.5]) / (np.sqrt(0.5) + 1e-6))


def test_dr_grpo_has_the_defaults_of_oat_zero():
    training = config_of("DrGRPO").training
    assert (training.updates_per_iteration, training.entropy_weight, training.clip_low) == (8, 0.0, 0.2)
    assert training.zero_truncated and training.loss_aggregation == "constant"
    cut = group_of_rewards(rewards=[1.0, 0.0])
    cut = replace(cut, infos=(replace(cut.infos[0], stop_reason="length"), cut.infos[1]))
    assert not without_actors(config_of("DrGRPO")).advantages([cut])[0].any()


def test_shaped_rewards_reach_the_advantages():
    # the second response is in the last 10 of 50 tokens: at 45 it loses 0.5, so the rewards are 1 and 0.5
    group = group_of_rewards(rewards=[1.0, 1.0], lengths=[10, 45])
    np.testing.assert_allclose(grpo(overlong_buffer=10).advantages([group])[0], [0.707105, -0.707105], atol=1e-5)


# ---- losses


def test_the_present_grpo_is_the_default_and_nothing_else():
    assert grpo().loss(GROUPS) == PolicyLoss(entropy_weight=0.001)


def test_options_reach_the_loss():
    options = {"clip_high": 0.28, "dual_clip": 3.0, "kl_weight": 0.04, "kl_estimator": "k2", "importance": "truncated"}
    loss = grpo(**options, entropy_weight=0.0, loss_aggregation="sequence", importance_cap=5.0).loss(GROUPS)
    assert loss == PolicyLoss(
        clip_high=0.28, dual_clip=3.0, per_sequence=True, kl_weight=0.04, kl_estimator="k2", importance="truncated",
        importance_cap=5.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("guidance", "wanted", "kind"),
    [
        ({}, {"argmax"}, GuidedPolicyLoss),
        ({"label": "sample"}, {"sample"}, GuidedPolicyLoss),
        ({"label": "topk"}, {"topk:20"}, SoftGuidedPolicyLoss),
        ({"label": "topk", "top_k": 5}, {"topk:5"}, SoftGuidedPolicyLoss),
    ],
)
def test_label_decides_what_the_teacher_is_asked_and_which_loss_reads_it(guidance, wanted, kind):
    tgpo = without_actors(config_of("TGPO", **TEACHER, guidance=guidance))
    assert tgpo.wanted() == wanted and type(tgpo.loss(GROUPS)) is kind


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
@pytest.mark.parametrize("normalization", ["token", "sequence"])
def test_guidance_is_normalized_as_it_says_whatever_the_policy_loss_does(aggregation, normalization):
    """With advantages 0, one row of response i has w / Z of the step, or w / (B |y_i|)."""
    training, guidance = {"loss_aggregation": aggregation}, {"weight": 0.5, "normalization": normalization}
    tgpo = without_actors(config_of("TGPO", **TEACHER, training=training, guidance=guidance, env_runners=RUNNERS))
    rows = random_rows(4, 5, 2)
    lengths = torch.tensor([10.0, 30.0, 20.0, 40.0], dtype=torch.float64)
    rows = rows.replace(
        advantages=torch.zeros(4, dtype=torch.float64), target_mask=torch.ones_like(rows.target_mask), lengths=lengths
    )
    logprobs = torch.full((4, 2), -1.0, dtype=torch.float64)
    loss = replace(tgpo.loss(GROUPS), entropy_weight=0.0)
    expected = torch.full_like(lengths, 0.5 / 100) if normalization == "token" else 0.5 / (4 * lengths)
    torch.testing.assert_close(loss(logprobs, None, rows) / tgpo.denominator(GROUPS), expected)
    assert tgpo.needs_batch is ((normalization, aggregation) != ("token", "token"))


@pytest.mark.parametrize("signal", ["logp", "prob", "match"])
def test_tgpor_shapes_with_its_signal_until_its_weight_is_zero(signal):
    config = config_of("TGPOR", **TEACHER, guidance={"signal": signal})
    first = without_actors(config).loss(GROUPS)
    assert first == ShapedPolicyLoss(entropy_weight=0.001, shaping_weight=0.02, signal=signal)
    assert without_actors(config, iteration=100).loss(GROUPS).shaping_weight == pytest.approx(0.01)
    assert without_actors(config, iteration=200).loss(GROUPS) == PolicyLoss(entropy_weight=0.001)
    assert without_actors(config).wanted() == {"argmax"}


# ---- schedules (the iteration is counted from 0: the first step sees the whole weight)


@pytest.mark.parametrize(
    ("guidance", "weights"),
    [
        ({"weight": 2e-3}, {0: 2e-3, 299: 2e-3}),
        ({"weight": 2e-3, "decay": 1e-5}, {0: 2e-3, 100: 1e-3, 199: 1e-5, 200: 0.0, 299: 0.0}),
        ({"weight": 2e-2, "decay": 1e-4}, {0: 2e-2, 100: 1e-2, 199: 1e-4, 200: 0.0, 299: 0.0}),
        ({"weight": 2e-3, "decay": 6.7e-6}, {0: 2e-3, 100: 1.33e-3, 298: 3.4e-6, 299: 0.0, 300: 0.0}),
    ],
    ids=["constant", "annealing", "aggressive", "continuous"],
)
def test_weights_of_figure_5_over_the_iterations(guidance, weights):
    config = config_of("TGPO", **TEACHER, guidance=guidance)
    for iteration, weight in weights.items():
        got = without_actors(config, iteration=iteration).guidance_weight
        assert got == pytest.approx(weight, rel=1e-6, abs=1e-12) and got >= 0.0


def test_a_restored_run_goes_on_with_the_weight_of_its_iteration():
    tgpo = without_actors(config_of("TGPO", **TEACHER, guidance={"decay": 1e-5}))
    tgpo.cursor = None
    tgpo.load_state_dict({"iteration": 150, "cursor": None})
    assert tgpo.guidance_weight == pytest.approx(5e-4)


# ---- combinations without a meaning are refused, with the reason


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"kl_weight": 0.1, "kl_estimator": "k1"}}, "k1 as a loss teaches nothing: its gradient does not"),
        ({"training": {"kl_weight": 0.1, "kl_as": "advantage"}}, "advantage with k3 follows the gradient of no diverg"),
        (
            {"training": {"kl_weight": 0.1}, "env_runners": {"temperature": 0.6}},
            r"training\.kl_weight: needs env_runners\.temperature 1\.0, got 0\.6",
        ),
        (
            {"training": {"overlong_buffer": 64}, "env_runners": {"max_response_tokens": 64}},
            r"overlong_buffer: must be < env_runners\.max_response_tokens \(64\), got 64",
        ),
        ({"training": {"dual_clip": 1.0}}, r"training\.dual_clip: must be > 1, got 1\.0"),
        ({"training": {"loss_aggregation": "tokens"}}, r"training\.loss_aggregation: .*'tokens'"),
        ({"training": {"outcome_rewards": {"right": 1.0}}}, r"training\.outcome_rewards\.right: unknown"),
    ],
)
def test_meaningless_options_are_refused_with_the_reason(sections, message):
    with pytest.raises(ValueError, match=message):
        config_of("GRPO", **sections).check(files=False)


@pytest.mark.parametrize(
    ("algorithm", "training"),
    [
        ("TrOPD", {"kl_weight": 0.1}),
        ("TrOPD", {"loss_aggregation": "sequence"}),
        ("GKD", {"clip_high": 0.28}),
        ("OPDistill", {"dual_clip": 3.0}),
        ("RKL", {"length_weight": 0.5}),
        ("MiniLLM", {"overlong_buffer": 8}),
    ],
)
def test_a_key_that_the_loss_does_not_contain_is_refused(algorithm, training):
    (key,) = training
    with pytest.raises(ValueError, match=rf"training\.{key}: the loss of {algorithm} does not contain it"):
        config_of(algorithm, **TEACHER, training=training).check(files=False)


def test_a_teacher_that_cannot_draw_is_refused_where_its_samples_are_wanted():
    served = {"path": "teacher", "backend": "remote", "url": "http://127.0.0.1:8000"}
    sections = {"teacher": served, "guidance": {"label": "sample"}}
    with pytest.raises(ValueError, match=r"sample needs teachers\.default\.backend vllm or transformers, got remote"):
        config_of("TGPO", **sections).check(files=False)
    sections["teacher"] = {"path": "teacher"}
    assert config_of("TGPO", **sections).check(files=False)


@pytest.mark.parametrize(
    "training",
    [
        {"kl_weight": 0.1, "kl_estimator": "k1", "kl_as": "advantage"},
        {"kl_estimator": "k1"},  # weight 0: nothing is estimated
        {"importance": "sequence"},
    ],
)
def test_meaningful_options_pass(training):
    assert config_of("GRPO", training=training).check(files=False)


def test_importance_asks_the_engine_for_its_logprobs():
    from tgpo_ray.env_runners.building import training_sampling

    wanted = {
        importance: training_sampling(config_of("GRPO", training={"importance": importance}).resolved(gpus=False))
        for importance in ("none", "truncated")
    }
    assert not wanted["none"].logprobs and wanted["truncated"].logprobs


@pytest.mark.parametrize(
    ("training", "importance"),
    [
        ({}, "none"),
        ({"max_staleness": 1}, "truncated"),
        ({"max_staleness": 1, "old_logprobs": "learner"}, "none"),
        ({"max_staleness": 2, "importance": "sequence"}, "sequence"),
    ],
)
def test_sampling_ahead_weighs_by_truncated_ratios_unless_told_otherwise(training, importance):
    assert grpo(**training).loss(GROUPS).importance == importance
