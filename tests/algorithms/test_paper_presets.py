"""Every file under yaml/paper says what the paper, its code, and the sources of the other methods say, key by key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.algorithms.driver_parts import without_actors
from tests.paths import YAML
from tgpo_ray.config import AlgorithmConfig

PAPER = YAML / "paper"
SIZES = {"7b": "Qwen/Qwen2.5-Math-7B", "1.5b": "Qwen/Qwen2.5-Math-1.5B"}
QWEN3 = "Qwen/Qwen3-30B-A3B-Thinking-2507"

GRPO_PLUS_PLUS = {
    "training.num_iterations": 300,
    "training.groups_per_iteration": 128,
    "training.group_size": 8,
    "training.updates_per_iteration": 2,
    "training.old_logprobs": "learner",
    "training.lr": 1e-6,
    "training.lr_warmup_steps": 0,
    "training.betas": (0.9, 0.999),
    "training.weight_decay": 0.01,
    "training.grad_clip": 1.0,
    "training.clip_low": 0.2,
    "training.clip_high": 0.2,
    "training.dual_clip": None,
    "training.entropy_weight": 0.001,
    "training.kl_weight": 0.0,
    "training.loss_aggregation": "token",
    "training.dynamic_sampling": False,
    "env_runners.temperature": 1.0,
    "env_runners.top_p": 1.0,
    "env_runners.max_prompt_tokens": 1024,
    "env_runners.max_response_tokens": 8192,
    "evaluation.temperature": 0.6,
    "model.hf_overrides": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 40000},
        "max_position_embeddings": 16384,
    },
}
GUIDED = GRPO_PLUS_PLUS | {
    "guidance.label": "argmax",
    "guidance.normalization": "token",
    "guidance.minimum": 0.0,
    "teachers.default.path": QWEN3,
    "teachers.default.prompt": "policy",
}
ANNEALED = GUIDED | {"guidance.weight": 2e-3, "guidance.decay": 1e-5}
SHAPED = GRPO_PLUS_PLUS | {"teachers.default.path": QWEN3, "guidance.weight": 0.02, "guidance.decay": 1e-4}
SIMPLERL = GRPO_PLUS_PLUS | {
    "training.lr": 5e-7,
    "training.kl_weight": 1e-4,
    "training.kl_estimator": "k3",
    "training.kl_as": "loss",
}


def training(**values: Any) -> dict[str, Any]:
    return {f"training.{key}": value for key, value in values.items()}


def guidance(**values: Any) -> dict[str, Any]:
    return {f"guidance.{key}": value for key, value in values.items()}


VERIFIED = "openr1_math_35k.jsonl"  # prompts and traces: what `tgpo-ray data prepare openr1-46k --verified` writes
TRACES = {"traces.path": VERIFIED}
RATIO = GRPO_PLUS_PLUS | guidance(decay=0.0, mask_teacher_at_eos=True) | {"teachers.default.path": QWEN3}
RKL = RATIO | guidance(weight=1.0, discount=0.0)
KDRL = (
    RATIO
    | training(entropy_weight=0.0)
    | guidance(weight=2e-3, style="loss", kl_estimator="k2", only="all", denominator="all")
)
LUFFY = GRPO_PLUS_PLUS | training(trace_weight=1.0) | TRACES

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": ("GRPO", GRPO_PLUS_PLUS),
    "grpo_deepseekmath": (
        "GRPO",
        GRPO_PLUS_PLUS
        | {
            "training.loss_aggregation": "sequence",
            "training.entropy_weight": 0.0,
            "training.kl_weight": 0.04,
            "training.kl_estimator": "k3",
        },
    ),
    "dapo": (
        "GRPO",
        GRPO_PLUS_PLUS
        | {
            "training.lr_warmup_steps": 10,
            "training.weight_decay": 0.1,
            "training.clip_high": 0.28,
            "training.dual_clip": 3.0,
            "training.entropy_weight": 0.0,
            "training.dynamic_sampling": True,
            "training.max_sampling_rounds": 10,
            "training.overlong_buffer": 8192 // 5,
            "training.outcome_rewards.correct": 1.0,
            "training.outcome_rewards.wrong": -1.0,
        },
    ),
    "simplerl_zero": ("GRPO", SIMPLERL | {"training.outcome_rewards": None}),
    "simplerl_zero_v0_reward": (
        "GRPO",
        SIMPLERL
        | {
            "training.outcome_rewards.correct": 1.0,
            "training.outcome_rewards.wrong": -0.5,
            "training.outcome_rewards.unparsable": -1.0,
        },
    ),
    "oat_zero": (
        "DrGRPO",
        GRPO_PLUS_PLUS
        | {
            "training.updates_per_iteration": 8,
            "training.entropy_weight": 0.0,
            "training.loss_aggregation": "constant",
            "training.zero_truncated": True,
            "env_runners.max_response_tokens": 3000,
        },
    ),
    "tgpo": ("TGPO", GUIDED | {"guidance.weight": 2e-3, "guidance.decay": 0.0}),
    "tgpo_annealing": ("TGPO", ANNEALED),
    "tgpo_aggressive": ("TGPO", GUIDED | {"guidance.weight": 2e-2, "guidance.decay": 1e-4}),
    "tgpo_continuous": ("TGPO", GUIDED | {"guidance.weight": 2e-3, "guidance.decay": 6.7e-6}),
    "tgpo_sample": ("TGPO", ANNEALED | {"guidance.label": "sample"}),
    "tgpo_topk": ("TGPO", ANNEALED | {"guidance.label": "topk", "guidance.top_k": 20}),
    "tgpo_by_sequence": ("TGPO", ANNEALED | {"guidance.normalization": "sequence"}),
    "tgpo_annealing_r1_distill": (
        "TGPO",
        ANNEALED | {"teachers.default.path": "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"},
    ),
    "tgpor": ("TGPOR", SHAPED | {"guidance.signal": "logp"}),
    "tgpor_prob": ("TGPOR", SHAPED | {"guidance.signal": "prob"}),
    "tgpor_match": ("TGPOR", SHAPED | {"guidance.signal": "match"}),
    "rkl": ("RKL", RKL),
    "op_distill": (
        "OPDistill",
        RKL | training(old_logprobs="sampler", entropy_weight=0.0, token_sum=False),
    ),
    "op_distill_tinker": (
        "OPDistill",
        RKL
        | training(groups_per_iteration=512, group_size=4, updates_per_iteration=1, old_logprobs="sampler")
        | training(lr=5e-5, entropy_weight=0.0, token_sum=False),
    ),
    "kdrl": ("KDRL", KDRL),
    "kdrl_annealing": ("KDRL", KDRL | guidance(weight=5e-3, decay=5e-5, minimum=1e-3)),
    "kdrl_masked": ("KDRL", KDRL | guidance(only="incorrect_responses")),
    "tropd": (
        "TrOPD",
        RATIO
        | training(num_iterations=200, group_size=4, updates_per_iteration=1, old_logprobs=None)
        | training(lr=5e-6, entropy_weight=0.0)
        | guidance(weight=1.0, gate="bernoulli", top_k=64, outliers="forward_kl", prefix_weight=1e-3, prefix_share=0.5)
        | TRACES,
    ),
    "luffy": (
        "LUFFY",
        LUFFY | training(loss_aggregation="constant", ratio_clip=False, trace_loss="shaped", shaping_gamma=0.1),
    ),
    "luffy_standardized": (
        "LUFFY",
        LUFFY
        | training(loss_aggregation="constant", ratio_clip=False, trace_loss="shaped", shaping_gamma=0.1)
        | training(standardize_advantages=True, trace_in_mean=True),
    ),
    "rl_plus_sft": (
        "LUFFY",
        LUFFY
        | training(group_size=9, ratio_clip=True, trace_loss="nll")
        | training(standardize_advantages=True, trace_in_mean=False),
    ),
    "prime": (
        "PRIME",
        GRPO_PLUS_PLUS
        | training(groups_per_iteration=256, group_size=4, updates_per_iteration=4, lr=5e-7, entropy_weight=0.0)
        | training(dynamic_sampling=True, min_accuracy=0.2, max_accuracy=0.8)
        | {"env_runners.max_response_tokens": 3072, "process_reward.lr": 1e-6, "process_reward.grad_clip": 10.0}
        | {"process_reward.beta": 0.05, "process_reward.scores": "after_update"},
    ),
    "gkd": (
        "GKD",
        training(groups_per_iteration=128, group_size=1, updates_per_iteration=1, lr=1e-5, on_policy_share=0.5)
        | guidance(weight=1.0, beta=0.5)
        | {"env_runners.temperature": 0.9, "teachers.default.path": QWEN3, **TRACES},
    ),
    "minillm": (
        "MiniLLM",
        GRPO_PLUS_PLUS
        | training(old_logprobs="sampler", entropy_weight=0.0)
        | guidance(weight=1.0, single_step_weight=1.0, discount=1.0, length_normalization=True)
        | {"teachers.default.path": QWEN3},
    ),
}
SFT = {
    "training.num_epochs": 3.0,
    "training.batch_size": 64,
    "training.lr": 5e-5,
    "training.warmup_ratio": 0.1,
    "training.lr_schedule": "cosine",
    "training.lr_end": 0.1,
    "training.weight_decay": 0.0,
    "training.betas": (0.9, 0.95),
    "data.max_tokens": 16384,
    "data.path": VERIFIED,
}


def load(size: str, name: str) -> Any:
    return AlgorithmConfig.from_yaml(PAPER / size / f"{name}.yaml")


def value_of(config: Any, key: str) -> Any:
    for part in key.split("."):
        place = int(part) if part.isdigit() else part
        config = config[place] if hasattr(config, "__getitem__") else getattr(config, part)
    return config


def assert_says(config: Any, expected: dict[str, Any]) -> None:
    assert {key: value_of(config, key) for key in expected} == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_what_its_source_says(size, name):
    algorithm, expected = PRESETS[name]
    config = load(size, name)
    assert config.algorithm == algorithm
    assert_says(config, expected | {"model.path": SIZES[size]})
    assert config.envs[0].id == "tgpo/Math-v0" and config.envs[0].kwargs["prompt"] == "think"
    assert config.envs[0].kwargs["path"] == VERIFIED


@pytest.mark.parametrize("size", SIZES)
def test_sft_has_the_papers_settings(size):
    assert_says(load(size, "sft"), SFT | {"model.path": SIZES[size]})


@pytest.mark.parametrize(("name", "expected"), [("tgpo_annealing_in_family", ANNEALED), ("rkl_in_family", RKL)])
def test_the_in_family_teacher_has_the_positions_that_it_needs(name, expected):
    config = load("1.5b", name)
    assert_says(config, expected | {"teachers.default.path": "Qwen/Qwen2.5-Math-7B"})
    teacher, runners = config.teachers["default"], config.env_runners
    assert teacher.hf_overrides["max_position_embeddings"] > runners.max_prompt_tokens + runners.max_response_tokens


@pytest.mark.parametrize("path", sorted(PAPER.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_preset_breaks_no_rule_and_needs_no_hub(path):
    assert AlgorithmConfig.from_yaml(path).problems() == []


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("tgpo", (2e-3, 2e-3, 2e-3)),
        ("tgpo_annealing", (2e-3, 1e-3, 0.0)),
        ("tgpo_aggressive", (2e-2, 1e-2, 0.0)),
        ("tgpo_continuous", (2e-3, 1.33e-3, 6.6e-4)),
        ("kdrl", (2e-3, 2e-3, 2e-3)),
        ("kdrl_annealing", (5e-3, 1e-3, 1e-3)),  # at the minimum from step 81 on
    ],
)
def test_weights_at_steps_1_101_and_201(name, weights):
    config = load("7b", name)
    got = [without_actors(config, iteration=step - 1).guidance_weight for step in (1, 101, 201)]
    assert got == pytest.approx(weights, abs=1e-12)


def test_both_sizes_hold_the_same_presets():
    """But for those with a teacher of the policy's family, which is the larger of the two."""
    names = {size: {path.stem for path in (PAPER / size).glob("*.yaml")} for size in SIZES}
    assert {name for name in names["1.5b"] ^ names["7b"] if not name.endswith("in_family")} == set()
