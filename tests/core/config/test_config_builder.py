"""The builder, its agreement with YAML, copies and round trips, the values behind null, algorithms of one's own."""

import copy
import pickle
import subprocess
import sys

import pytest

from tgpo_ray.algorithms import GRPOConfig, SFTConfig, TGPOConfig
from tgpo_ray.config import AlgorithmConfig, ConfigError, load_yaml

DESIGN_EXAMPLE = """\
algorithm: TGPO
seed: 0
model: {path: Qwen/Qwen2.5-Math-7B, dtype: bfloat16, hf_overrides: {rope_parameters: {rope_type: default, rope_theta: 40000}, max_position_embeddings: 16384}}
teachers: {default: {path: Qwen/Qwen3-30B-A3B-Thinking-2507, num_replicas: 2, tensor_parallel_size: 2, prompt: policy}}
envs: [{id: tgpo/Math-v0, weight: 1.0, teacher: default, kwargs: {path: openr1_math.jsonl, prompt: think}}]
env_runners: {num_env_runners: 2, tensor_parallel_size: 1, temperature: 1.0, max_prompt_tokens: 1024, max_response_tokens: 8192, kv_cache_memory: 40GiB}
learners: {num_learners: 2, engine: deepspeed, zero_stage: 3, offload: optimizer, token_budget: 16384, gradient_checkpointing: true}
training: {num_iterations: 300, groups_per_iteration: 128, group_size: 8, updates_per_iteration: 2, old_logprobs: learner, lr: 1e-6, weight_decay: 0.01, grad_clip: 1.0, clip_low: 0.2, clip_high: 0.2, entropy_weight: 0.001, max_staleness: 0}
guidance: {weight: 2e-3, decay: 1e-5, label: argmax, normalization: token, unmapped: mask}
evaluation: {every: 20, temperature: 0.6, num_samples: 1, envs: [{id: tgpo/Math-v0, kwargs: {path: math500.jsonl, prompt: think}}]}
checkpointing: {storage_path: s3://bucket/runs, every: 50, keep: 2}
fault_tolerance: {max_learner_restarts: 3, max_env_runner_restarts: 10, teacher_timeout_s: 60, max_unguided_share: 0.05}
reporting: {tensorboard: true, wandb: null, samples_every: 20}
"""  # noqa: E501


def example() -> TGPOConfig:
    return (
        TGPOConfig()
        .environment("tgpo/Math-v0", env_config={"path": "train.jsonl"})
        .models(path="Qwen/Qwen2.5-Math-1.5B")
        .teachers(path="Qwen/Qwen3-8B")
        .training(lr=1e-6, group_size=8)
        .guidance(weight=2e-3, decay=1e-5)
        .env_runners(num_env_runners=2)
        .learners(num_learners=2)
    )


def test_the_builder_and_yaml_make_equal_configs():
    text = """
    algorithm: TGPO
    env: {id: tgpo/Math-v0, kwargs: {path: train.jsonl}}
    model: {path: Qwen/Qwen2.5-Math-1.5B}
    teacher: {path: Qwen/Qwen3-8B}
    training: {lr: 1e-6, group_size: 8}
    guidance: {weight: 2e-3, decay: 1e-5}
    env_runners: {num_env_runners: 2}
    learners: {num_learners: 2}
    """
    assert AlgorithmConfig.from_dict(load_yaml(text)) == example()


def test_the_example_of_the_documentation_loads_and_breaks_no_rule():
    config = AlgorithmConfig.from_dict(load_yaml(DESIGN_EXAMPLE))
    assert config.check(files=False) is config
    assert config.env_runners.kv_cache_memory == 40 * 2**30
    assert config.learners.zero_stage == 3


@pytest.mark.parametrize("config", [TGPOConfig(), GRPOConfig(), SFTConfig(), example()])
def test_writing_and_reading_gives_an_equal_config(tmp_path, config: AlgorithmConfig):
    config.to_yaml(tmp_path / "saved.yaml")
    assert AlgorithmConfig.from_dict(load_yaml((tmp_path / "saved.yaml").read_text())) == config
    assert AlgorithmConfig.from_dict(config.resolved(gpus=True).to_dict()) == config.resolved(gpus=True)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
def test_a_copy_is_equal_and_independent(clone):
    config = example()
    twin = clone(config)
    assert twin == config
    twin.training(lr=0.5).teachers(path="other/teacher")
    assert config.training.lr == 1e-6
    assert config.teachers["default"].path == "Qwen/Qwen3-8B"
    assert twin.training.lr == 0.5


def test_calling_a_section_returns_the_config_and_changes_only_what_is_named():
    config = TGPOConfig()
    assert config.training(lr=1e-3) is config
    assert config.training(group_size=4) is config
    assert (config.training.lr, config.training.group_size, config.training.grad_clip) == (1e-3, 4, 1.0)


def test_a_call_with_one_wrong_value_changes_nothing():
    config = TGPOConfig()
    with pytest.raises(
        ConfigError, match=r"^training\.guidence_weight: unknown key; did you mean 'guidance\.weight'\?$"
    ):
        config.training(lr=1.0, guidence_weight=1.0)
    with pytest.raises(
        ConfigError, match=r"^teachers\.default\.pth: unknown key; did you mean 'teachers\.default\.path'"
    ):
        config.teachers(pth="x")
    with pytest.raises(ConfigError, match=r"^envs\.0\.wieght: unknown key; did you mean 'envs\.0\.weight'"):
        config.environment("tgpo/Math-v0", wieght=2)
    assert config == TGPOConfig()


def test_environments_replace_or_join():
    config = GRPOConfig().environment("a-v0").environment("b-v0", weight=2.0).add_environment("m:c/D-v1", name="d")
    assert [env.id for env in config.envs] == ["b-v0", "m:c/D-v1"]
    assert [env.label for env in config.envs] == ["b", "d"]


def test_teachers_are_named_pools():
    config = TGPOConfig().teachers(path="a/b").teachers("maths", path="c/d", num_replicas=2).teachers(num_replicas=3)
    assert {name: (it.path, it.num_replicas) for name, it in config.teachers.items()} == {
        "default": ("a/b", 3),
        "maths": ("c/d", 2),
    }
    assert "maths" in config.teachers
    assert len(config.teachers) == 2


def test_defaults_are_those_of_the_papers_scripts():
    for config in (GRPOConfig(), TGPOConfig()):
        training = config.training
        assert (training.num_iterations, training.groups_per_iteration, training.group_size) == (300, 128, 8)
        assert training.updates_per_iteration == 2
        assert training.groups_per_update == 64
        assert (training.lr, training.lr_warmup_steps, training.betas) == (1e-6, 0, (0.9, 0.999))
        assert (training.weight_decay, training.grad_clip) == (0.01, 1.0)
        assert (training.clip_low, training.clip_high, training.entropy_weight) == (0.2, 0.2, 1e-3)
        assert (config.env_runners.temperature, config.env_runners.top_p) == (1.0, 1.0)
        assert config.evaluation.temperature == 0.6
    sft = SFTConfig().training
    assert (sft.lr, sft.num_epochs, sft.batch_size, sft.warmup_ratio) == (5e-5, 3.0, 64, 0.1)
    assert GRPOConfig.from_dict({"training": {"lr": 1.0}}).training.updates_per_iteration == 2


def test_guidance_gives_its_schedule():
    config = TGPOConfig().guidance(weight=2e-3, decay=1e-5)
    schedule = config.guidance.build_schedule(config.training.num_iterations)
    assert [schedule(0), schedule(100), schedule(200)] == pytest.approx([2e-3, 1e-3, 0.0])
    assert config.guidance(decay=0.0, schedule="constant").guidance.build_schedule(300)(299) == 2e-3
    assert config.guidance(schedule="cosine").guidance.build_schedule(300)(150) == pytest.approx(1e-3)


def test_null_and_auto_are_filled_in_by_what_the_cluster_has():
    config = example().env_runners(tensor_parallel_size=2)
    on_cpu, on_gpu = config.resolved(gpus=False), config.resolved(gpus=True)
    assert config.training.old_logprobs is None
    assert on_cpu.training.old_logprobs == "learner"
    assert on_cpu.learners.token_budget == 16384
    assert (on_cpu.model.dtype, on_gpu.model.dtype) == ("float32", "bfloat16")
    assert (on_cpu.teachers["default"].dtype, on_gpu.teachers["default"].dtype) == ("float32", "bfloat16")
    assert (on_cpu.env_runners.num_gpus_per_env_runner, on_gpu.env_runners.num_gpus_per_env_runner) == (0.0, 2.0)
    assert (on_cpu.learners.num_gpus_per_learner, on_gpu.learners.num_gpus_per_learner) == (0.0, 1.0)
    assert on_gpu.teachers["default"].num_gpus_per_replica == 1.0
    assert on_cpu.learners.threads_per_learner == 1
    assert on_cpu.name == "tgpo"


def test_the_token_budget_grows_with_the_longest_episode():
    config = example().env_runners(max_prompt_tokens=1024, max_response_tokens=32768)
    assert config.resolved(gpus=False).learners.token_budget == 33792


@pytest.mark.parametrize(
    ("updates", "staleness", "source"), [(1, 0, "none"), (2, 0, "learner"), (1, 1, "sampler"), (2, 1, "sampler")]
)
def test_old_logprobs_follow_updates_and_staleness(updates: int, staleness: int, source: str):
    config = TGPOConfig().training(updates_per_iteration=updates, max_staleness=staleness)
    assert config.training.resolved_old_logprobs() == source


def test_an_algorithm_of_ones_own_is_named_by_import_path(tiny_models, tmp_path, monkeypatch):
    (tmp_path / "my_method_pkg.py").write_text(
        "from tgpo_ray.config import AlgorithmConfig\n"
        "class MyConfig(AlgorithmConfig):\n    algo_class = 'my_method_pkg:MyMethod'\n    strength: float = 1.0\n"
        "class MyMethod:\n    config_class = MyConfig\n    def __init__(self, config): self.config = config\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for algorithm in ("my_method_pkg:MyConfig", "my_method_pkg:MyMethod"):
        model = {"path": tiny_models["policy"]}
        data = {"algorithm": algorithm, "strength": 2.0, "model": model, "env": {"id": "tgpo/Math-v0"}}
        config = AlgorithmConfig.from_dict(data)
        assert type(config).__name__ == "MyConfig"
        assert AlgorithmConfig.from_dict(config.to_dict()) == config
        config.env_runners(max_prompt_tokens=64, max_response_tokens=64)
        assert config.build_algo().config is config
    assert type(config)().to_dict()["algorithm"] == "my_method_pkg:MyConfig"


def test_a_config_without_an_algorithm_class_cannot_be_built():
    class Lonely(AlgorithmConfig):
        pass

    with pytest.raises(ConfigError, match="algorithm: Lonely names no algo_class"):
        Lonely().get_algo_class()


def test_an_incomplete_config_is_refused_when_it_is_built():
    with pytest.raises(ConfigError) as caught:
        TGPOConfig().build_algo()
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["model.path", "envs", "teachers"]


def test_the_config_package_imports_nothing_heavy():
    code = (
        "import sys, tgpo_ray.config, tgpo_ray.cli.plan\n"
        "heavy = {'torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'tgpo_ray.algorithms'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
