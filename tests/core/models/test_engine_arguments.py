"""What an engine asks vLLM for, which needs neither vLLM nor a GPU."""

from pathlib import Path

import pytest

from tgpo_ray.algorithms import TGPOConfig
from tgpo_ray.env_runners.building import engine_spec
from tgpo_ray.env_runners.env_spec import env_arguments
from tgpo_ray.models.engine_arguments import engine_arguments
from tgpo_ray.models.engine_spec import EngineSpec
from tgpo_ray.teachers.building import reference_spec, teacher_spec


def config() -> TGPOConfig:
    return TGPOConfig().environment("tgpo/Math-v0").models(path="a/policy").teachers(path="a/teacher")


def test_on_a_gpu_the_kv_cache_takes_what_is_left_of_the_actors_share_of_the_card():
    half = config().env_runners(num_gpus_per_env_runner=0.5).resolved(gpus=True)
    arguments = engine_arguments(engine_spec(half), gpu=True)
    assert arguments["gpu_memory_utilization"] == pytest.approx(0.45)  # nine tenths of half a card
    assert "kv_cache_memory_bytes" not in arguments
    # two cards for a model that is split in two: a whole card each
    split = config().env_runners(tensor_parallel_size=2).resolved(gpus=True)
    assert engine_arguments(engine_spec(split), gpu=True)["gpu_memory_utilization"] == pytest.approx(0.9)


def test_teachers_and_the_reference_share_a_card_in_the_same_way():
    run = config().teachers(num_gpus_per_replica=0.25).reference(num_gpus_per_replica=0.5).resolved(gpus=True)
    teacher = teacher_spec(run, run.teachers["default"], unmapped="mask").engine
    assert engine_arguments(teacher, gpu=True)["gpu_memory_utilization"] == pytest.approx(0.225)
    assert engine_arguments(reference_spec(run).engine, gpu=True)["gpu_memory_utilization"] == pytest.approx(0.45)


def test_on_a_cpu_auto_is_one_gibibyte():
    run = config().resolved(gpus=False)
    for engine in (engine_spec(run), teacher_spec(run, run.teachers["default"], unmapped="mask").engine):
        assert engine_arguments(engine, gpu=False)["kv_cache_memory_bytes"] == 2**30
    # an actor without a GPU in a cluster with GPUs runs on its CPUs
    mixed = config().env_runners(num_gpus_per_env_runner=0).resolved(gpus=True)
    assert mixed.env_runners.kv_cache_memory == 2**30


def test_bytes_are_taken_as_they_are_and_never_a_share_of_a_cpu_machine():
    run = config().env_runners(kv_cache_memory="40GiB").resolved(gpus=True)
    arguments = engine_arguments(engine_spec(run), gpu=True)
    assert arguments["kv_cache_memory_bytes"] == 40 * 2**30
    assert "gpu_memory_utilization" not in arguments
    with pytest.raises(ValueError, match="kv_cache_memory must be bytes on a CPU"):
        engine_arguments(EngineSpec("m", "float32", 64, kv_cache_memory=None), gpu=False)


@pytest.mark.parametrize(("cpus", "workers"), [(0.5, 1), (1.0, 1), (6.5, 6)])
def test_a_runner_has_a_verifier_process_for_each_of_its_cpus(cpus: float, workers: int):
    assert (
        config().env_runners(num_cpus_per_env_runner=cpus).resolved(gpus=False).env_runners.num_verifier_workers
        == workers
    )
    chosen = config().env_runners(num_cpus_per_env_runner=cpus, num_verifier_workers=3)
    assert chosen.resolved(gpus=False).env_runners.num_verifier_workers == 3


def test_environments_know_their_workers_before_the_configuration_is_resolved():
    runners = config().env_runners(num_cpus_per_env_runner=4.0).env_runners
    path = {"path": "rows.jsonl"}
    assert env_arguments("tgpo/Math-v0", path, runners)["verify_workers"] == 4


@pytest.mark.parametrize(("dtype", "head"), [("float32", {}), ("bfloat16", {"head_dtype": "float32"})])
def test_the_head_of_a_half_precision_engine_is_float32(dtype: str, head: dict[str, str]):
    spec = EngineSpec("m", dtype, 64, 2**20, hf_overrides={"rope_theta": 2.0})
    assert engine_arguments(spec, gpu=False)["hf_overrides"] == {"rope_theta": 2.0} | head


def test_a_heads_precision_can_be_chosen_and_a_quantized_model_keeps_its_own(tmp_path: Path):
    chosen = EngineSpec("m", "bfloat16", 64, 2**20, hf_overrides={"head_dtype": "model"})
    assert engine_arguments(chosen, gpu=True)["hf_overrides"] == {"head_dtype": "model"}
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    assert engine_arguments(EngineSpec(str(tmp_path), "bfloat16", 64, 2**20), gpu=True)["hf_overrides"] == {}


def test_sleep_mode_is_asked_for_on_a_gpu_and_refused_on_a_cpu():
    spec = EngineSpec("m", "float32", 64, 2**20, sleep=True)
    assert engine_arguments(spec, gpu=True)["enable_sleep_mode"] is True
    assert "enable_sleep_mode" not in engine_arguments(EngineSpec("m", "float32", 64, 2**20), gpu=True)
    with pytest.raises(ValueError, match=r"env_runners\.sleep: needs a GPU"):
        engine_arguments(spec, gpu=False)
