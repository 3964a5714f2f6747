"""Options that nothing would read are refused with the key that would make them count; those with a meaning pass."""

from __future__ import annotations

from typing import Any

import pytest

from tests.algorithms.driver_parts import config_of, without_actors
from tests.episodes import group_of_rewards

TAUGHT = {"RKL", "OPDistill", "KDRL", "TrOPD", "TGPO", "MiniLLM", "GKD", "TGPOR"}


def problems(name: str, /, **sections: Any) -> list[str]:
    """The broken rules of a method with a whole configuration and these sections."""
    given: dict[str, Any] = {}
    if name in TAUGHT:
        given["teacher"] = {"path": "teacher"}
    if name == "GKD":
        given["traces"] = {"path": "traces.jsonl"}
    if name == "SFT":
        given["data"] = {"path": "traces.jsonl"}
    return config_of(name, **given, **sections).problems(files=False)


SHAPING = {"outcome_rewards": {"wrong": -1.0}, "zero_truncated": True, "overlong_buffer": 9, "length_weight": 1.0}
HOT = {"env_runners": {"temperature": 0.7}}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("PRIME", HOT, "env_runners.temperature: must be 1.0 here, got 0.7"),
    *[
        ("PRIME", {"training": {key: value}}, f"training.{key}: the loss of PRIME does not contain it")
        for key, value in SHAPING.items()
    ],
    ("PRIME", {"training": {"dynamic_sampling": False, "min_accuracy": 0.1}}, "needs training.dynamic_sampling true"),
    *[
        ("LUFFY", {"training": {key: value}}, f"training.{key}: needs training.ratio_clip true, got false")
        for key, value in (("clip_low", 0.1), ("clip_high", 0.28), ("dual_clip", 3.0))
    ],
    ("LUFFY", {"training": {"trace_loss": "nll", "shaping_gamma": 0.3}}, "needs training.trace_loss shaped, got nll"),
    ("LUFFY", {"training": {"trace_in_mean": False, "group_size": 2}}, "must be >= 3 with trace_in_mean false, got 2"),
    (
        "LUFFY",
        {"training": {"trace_in_mean": False, "standardize_advantages": True}},
        "training.standardize_advantages: needs trace_in_mean true or trace_loss nll",
    ),
    (
        "KDRL",
        {"guidance": {"style": "advantage", "kl_estimator": "k3"}},
        "guidance.kl_estimator: needs guidance.style loss, got advantage; nothing reads 'k3': leave kl_estimator out",
    ),
    ("TGPO", {"guidance": {"top_k": 5}}, "guidance.top_k: needs guidance.label topk, got argmax"),
    ("TGPO", {"guidance": {"label": "sample", "top_k": 5}}, "guidance.top_k: needs guidance.label topk, got sample"),
    ("TGPO", {"guidance": {"label": "sample"}, **HOT}, "label: sample needs env_runners.temperature 1.0, got 0.7"),
    ("TrOPD", {"guidance": {"threshold": 0.3}}, "guidance.threshold: needs guidance.gate threshold, got bernoulli"),
    ("TrOPD", {"guidance": {"outliers": "mask", "top_k": 5}}, "needs guidance.outliers forward_kl, got mask"),
    ("TrOPD", {"training": {"kl_estimator": "k2"}}, "training.kl_estimator: the loss of TrOPD does not contain it"),
    *[
        (name, {"guidance": {"unmapped": "first_piece"}}, "guidance.unmapped: needs a method that learns")
        for name in ("RKL", "OPDistill", "KDRL", "MiniLLM", "GKD")
    ],
    ("OPDistill", {"training": {"token_sum": True, "loss_aggregation": "sequence"}}, "loss_aggregation token"),
    ("GRPO", {"training": {"importance_cap": 5.0}}, "training.importance_cap: needs training.importance truncated"),
    ("GRPO", {"training": {"max_sampling_rounds": 3}}, "needs training.dynamic_sampling true, got false"),
    ("SFT", {"training": {"lr_end": 0.2}}, "training.lr_end: needs training.lr_schedule cosine, got constant"),
    ("GRPO", {"training": {"group_size": 1}}, "training.group_size: must be >= 2, got 1"),
]
ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    *[(name, {"training": {"group_size": 1}}) for name in ("RKL", "OPDistill", "MiniLLM", "TrOPD", "GKD")],
    ("TGPO", {"guidance": {"label": "topk", "top_k": 5}, **HOT}),
    ("TGPO", HOT),  # the argmax knows no temperature
    ("LUFFY", {"training": {"ratio_clip": True, "clip_high": 0.28, "dual_clip": 3.0}}),
    ("LUFFY", {"training": {"trace_in_mean": False, "standardize_advantages": True, "trace_loss": "nll"}}),
    ("LUFFY", {"training": {"standardize_advantages": True}}),  # as the authors of TGPO ran it
    ("KDRL", {"guidance": {"style": "advantage", "kl_estimator": "k2"}}),  # the default, written out
    ("OPDistill", {"training": {"token_sum": True}}),
    ("SFT", {"training": {"lr_schedule": "cosine", "lr_end": 0.0}}),
]


@pytest.mark.parametrize(("name", "sections", "said"), REFUSED, ids=[f"{it[0]}-{it[2][:40]}" for it in REFUSED])
def test_an_option_that_means_nothing_is_refused(name, sections, said):
    found = problems(name, **sections)
    assert len(found) == 1 and said in found[0]


@pytest.mark.parametrize(("name", "sections"), ACCEPTED, ids=[f"{it[0]}-{it[1]}" for it in ACCEPTED])
def test_an_option_with_a_meaning_passes(name, sections):
    assert problems(name, **sections) == []


@pytest.mark.parametrize("name", ["RKL", "OPDistill"])
def test_a_group_of_one_has_an_advantage_and_a_loss(name):
    guidance = {"mask_teacher_at_eos": False}  # no model's folder is read for them
    config = config_of(name, teacher={"path": "teacher"}, training={"group_size": 1}, guidance=guidance)
    algorithm = without_actors(config)
    groups = [group_of_rewards(rewards=[1.0])]
    assert algorithm.advantages(groups)[0].shape == (1,) and algorithm.loss(groups).reward_weight == 0.0


def test_the_teachers_top_k_has_the_policys_temperature():
    tgpo = without_actors(config_of("TGPO", teacher={"path": "teacher"}, guidance={"label": "topk"}, **HOT))
    assert tgpo.loss([group_of_rewards(rewards=[1.0, 0.0])]).temperature == 0.7
