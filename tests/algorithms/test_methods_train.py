"""Every method trains on real actors: runners, learners, and where it has one a teacher or a frozen reference.

A method joins by a line in METHODS. `make test-all` runs them.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.weights import gap, weights_of
from tgpo_ray.reporting.metrics import METRICS

KL = {"kl_weight": 0.1}
GATE = {"guidance/gate", "guidance/gate_open"}
VERDICTS = {"outcome_rewards": {"correct": 1.0, "wrong": -0.5, "unparsable": -1.0}}

# name -> algorithm, sections, metrics that it must report
METHODS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "grpo": ("GRPO", {}, {"policy/ratio_deviation"}),
    "deepseekmath": ("GRPO", {"training": KL | {"loss_aggregation": "sequence"}}, {"policy/reference_kl"}),
    "k1 advantage": ("GRPO", {"training": KL | {"kl_estimator": "k1", "kl_as": "advantage"}}, {"policy/reference_kl"}),
    "simplerl": ("GRPO", {"training": KL | VERDICTS}, {"policy/reference_kl"}),
    "dapo": (
        "GRPO",
        {"training": {"clip_high": 0.28, "dual_clip": 3.0, "overlong_buffer": 8, "length_weight": 0.1} | VERDICTS},
        {"policy/clip_fraction"},
    ),
    "truncated importance": ("GRPO", {"training": {"importance": "truncated"}}, {"policy/sampler_gap"}),
    "sequence importance": (
        "GRPO",
        {"training": {"importance": "sequence", "updates_per_iteration": 1}},
        {"policy/sampler_gap"},
    ),
    "drgrpo": ("DrGRPO", {"training": {"updates_per_iteration": 4}}, {"policy/ratio_deviation"}),
    "tgpo": ("TGPO", {"guidance": {"weight": 0.1}}, {"guidance/nll", "guidance/weight"}),
    "tgpo with kl": ("TGPO", {"guidance": {"weight": 0.1}, "training": KL}, {"guidance/nll", "policy/reference_kl"}),
    "tgpo top-k": ("TGPO", {"guidance": {"weight": 0.1, "label": "topk", "top_k": 4}}, {"guidance/nll"}),
    "tgpo by sequence": (
        "TGPO",
        {"guidance": {"weight": 0.1, "normalization": "sequence"}, "training": {"loss_aggregation": "constant"}},
        {"guidance/nll"},
    ),
    "tgpo drift": (
        "TGPO",
        {"guidance": {"weight": 0.1, "gate": "drift", "gate_options": {"budget": 5.0}}},
        GATE | {"guidance/log_ratio"},
    ),
    "tgpo disagreement": (
        "TGPO",
        {"guidance": {"weight": 0.1, "gate": "disagreement", "schedule": "balanced", "diagnostics": "full"}},
        GATE | {"guidance/confidence", "guidance/topk_agreement", "guidance/log_ratio"},
    ),
    "tgpo accuracy": (
        "TGPO",
        {"guidance": {"weight": 0.1, "gate": "accuracy", "diagnostics": "light"}},
        GATE | {"guidance/log_ratio", "guidance/kl_k3"},
    ),
    **{
        f"tgpor {signal}": ("TGPOR", {"guidance": {"signal": signal}}, {"guidance/nll", "guidance/weight"})
        for signal in ("logp", "prob", "match")
    },
    "rkl": ("RKL", {}, {"guidance/log_ratio", "guidance/scored"}),
    "rkl with returns": ("RKL", {"guidance": {"discount": 1.0, "advantage_clip": 5.0}}, {"guidance/log_ratio"}),
    "op distill": ("OPDistill", {"training": {"updates_per_iteration": 1}}, {"guidance/log_ratio"}),
    "kdrl": ("KDRL", {}, {"guidance/log_ratio", "policy/ratio_deviation"}),
    "kdrl kept": (
        "KDRL",
        {"guidance": {"only": "incorrect_responses", "denominator": "kept"}},
        {"guidance/log_ratio", "guidance/weight"},
    ),
    "kdrl shaping": ("KDRL", {"guidance": {"style": "advantage", "only": "incorrect_groups"}}, {"guidance/log_ratio"}),
    "prime": (
        "PRIME",
        {"training": {"dynamic_sampling": False}},
        {"process_reward/loss", "process_reward/accuracy", "process_reward/grad_norm"},
    ),
}
TRAINING = {"num_iterations": 2, "groups_per_iteration": 4, "group_size": 4, "lr": 1e-3, "updates_per_iteration": 2}


@pytest.fixture(scope="module")
def reference(ray_cluster: Any, make_config: Any) -> Iterator[Any]:
    """A frozen copy of the policy as it starts."""
    from tgpo_ray.teachers.building import build_reference

    config = make_config("GRPO", training=TRAINING | KL, reference={"kv_cache_memory": "64MiB"})
    group = build_reference(config.resolved(gpus=False))
    group.wait_until_ready()
    yield group
    group.stop()


@pytest.fixture
def sections_of(tiny_models: dict[str, str]) -> Any:
    """sections_of("TGPOR", {...}) -> the sections with the tiny teacher, where the algorithm has one."""
    from tgpo_ray.config import resolve_algorithm

    def sections(algorithm: str, given: dict[str, Any]) -> dict[str, Any]:
        found = given | {"training": TRAINING | given.get("training", {})}
        if "teachers" in resolve_algorithm(algorithm).model_fields:
            found["teacher"] = {"path": tiny_models["teacher"]}
        return found

    return sections


def assert_trains(algorithm: Any, reported: set[str]) -> None:
    """Two iterations: known and finite metrics, the method's own among them, and weights that move."""
    before = weights_of(algorithm.learners)
    for iteration in (1, 2):
        metrics = algorithm.train()
        assert set(metrics) <= set(METRICS) and reported <= set(metrics)
        assert not [name for name, value in metrics.items() if not math.isfinite(value)]
        assert algorithm.iteration == iteration
    after = weights_of(algorithm.learners)
    assert gap(after, before) > 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("standing_learners")
@pytest.mark.parametrize("name", METHODS)
def test_method_trains(name, make_config, sections_of, env_runners, teachers, reference):
    kind, sections, reported = METHODS[name]
    config = make_config(kind, **sections_of(kind, sections))
    algorithm = config.build_algo(env_runners=env_runners, teachers={**teachers, "reference": reference})
    try:
        assert_trains(algorithm, reported)
    finally:
        algorithm.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("standing_learners")
def test_tgpo_learns_tokens_drawn_from_a_teacher_that_can_draw(make_config, sections_of, env_runners):
    sections = sections_of("TGPO", {"guidance": {"weight": 0.1, "label": "sample"}})
    sections["teacher"] |= {"backend": "transformers", "kv_cache_memory": "auto"}
    algorithm = make_config("TGPO", **sections).build_algo(env_runners=env_runners)
    try:
        assert_trains(algorithm, {"guidance/nll"})
    finally:
        algorithm.stop()


@pytest.mark.slow
def test_reference_of_the_unmoved_policy_is_the_policy(make_config, sections_of, env_runners, reference):
    """In the first update the KL to the first weights is that of two engines: their rounding."""
    config = make_config("GRPO", **sections_of("GRPO", {"training": KL | {"updates_per_iteration": 1}}))
    algorithm = config.build_algo(env_runners=env_runners, teachers={"reference": reference})
    try:
        assert algorithm.train()["policy/reference_kl"] < 1e-6
        assert algorithm.train()["policy/reference_kl"] > 1e-6
    finally:
        algorithm.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("standing_learners")
def test_dynamic_sampling_draws_on_until_its_rounds_end(make_config, sections_of, env_runners):
    """The tiny policy is never right, so each of its groups is refused; a rough reward teaches something again."""
    training = {"dynamic_sampling": True, "max_sampling_rounds": 2}
    config = make_config("GRPO", **sections_of("GRPO", {"training": training}))
    algorithm = config.build_algo(env_runners=env_runners)
    try:
        with pytest.raises(RuntimeError, match="dynamic sampling refused all 8 groups of 2 rounds"):
            algorithm.train()
        assert sum(algorithm.cursor.drawn) == 8
        algorithm.keep = lambda group: group.task.problem_index % 2 == 0
        metrics = algorithm.train()
        assert 0.0 < metrics["sampling/refused_groups"] < 1.0
        assert all(group.task.problem_index % 2 == 0 for group in algorithm.sampled)
    finally:
        algorithm.stop()


@pytest.mark.long
def test_a_balanced_weight_goes_on_from_its_checkpoint(make_config, sections_of, env_runners, teachers, tmp_path):
    guidance = {"weight": 0.1, "schedule": "balanced", "schedule_options": {"eta": 1.0}}
    config = make_config("TGPO", **sections_of("TGPO", {"guidance": guidance}))
    weights, checkpoint = [], ""
    for number in range(2):
        algorithm = config.build_algo(
            env_runners=env_runners, teachers=teachers, run_folder=str(tmp_path / f"{number}")
        )
        try:
            if number == 0:
                algorithm.train()
                checkpoint = algorithm.save(str(tmp_path / "copy"))
            else:
                assert algorithm.guidance_weight == 0.1
                algorithm.restore(checkpoint)
            weights.append(algorithm.guidance_weight)
        finally:
            algorithm.stop()
    assert weights[0] == weights[1] != 0.1


@pytest.mark.long
def test_a_copied_checkpoint_of_prime_has_both_models(make_config, sections_of, env_runners, reference, tmp_path):
    """Where the run's own folder is gone, as on another machine."""
    config = make_config("PRIME", **sections_of("PRIME", METHODS["prime"][1]))
    actors = {"env_runners": env_runners, "teachers": {"reference": reference}}
    algorithm = config.build_algo(**actors, run_folder=str(tmp_path / "run"))
    try:
        algorithm.train()
        checkpoint = algorithm.save(str(tmp_path / "copy"))
        expected = [weights_of(learners) for learners in (algorithm.learners, algorithm.judges)]
    finally:
        algorithm.stop()
    shutil.rmtree(tmp_path / "run")
    other = config.build_algo(**actors, run_folder=str(tmp_path / "other"))
    try:
        other.restore(checkpoint)
        for learners, theirs in zip((other.learners, other.judges), expected, strict=True):
            assert gap(weights_of(learners), theirs) == 0.0
        other.train()
    finally:
        other.stop()
