"""The rules between keys: each broken once, and what is said of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tgpo_ray.algorithms import GRPOConfig, SFTConfig, TGPOConfig
from tgpo_ray.config import AlgorithmConfig, ConfigError, check_resources


def tgpo() -> TGPOConfig:
    return TGPOConfig().environment("tgpo/Math-v0").models(path="org/policy").teachers(path="org/teacher")


def grpo() -> GRPOConfig:
    return GRPOConfig().environment("tgpo/Math-v0").models(path="org/policy")


def model_folder(folder: Path, tokenizer: bool = True, /, **facts: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(facts))
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}")
    return str(folder)


def test_complete_configs_break_no_rule():
    sft = SFTConfig().models(path="org/policy").data(path="traces.jsonl")
    assert [config.problems() for config in (tgpo(), grpo(), sft)] == [[], [], []]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tgpo().models(path=""), "model.path: required (folder or Hugging Face id of the policy)"),
        (tgpo().teachers(path=""), "teachers.default.path: required (folder or Hugging Face id of the teacher)"),
        (SFTConfig().models(path="a/b"), "data.path: required (jsonl or parquet file of prompts and responses)"),
        (
            GRPOConfig().models(path="a/b"),
            "envs: required: name a training environment, as env: {id: tgpo/Math-v0, kwargs: {path: problems.jsonl}}",
        ),
        (
            TGPOConfig().models(path="a/b").environment("x"),
            "teachers: required: TGPO learns from one; write teacher: {path: folder or id}",
        ),
        (
            tgpo().add_environment("x", teacher="maths"),
            "envs.1.teacher: no teacher named 'maths'; `teachers` has default",
        ),
        (
            tgpo().training(group_size=1),
            "training.group_size: must be >= 2, got 1: one episode has no group to compare with",
        ),
        (
            grpo().learners(layout="shared_prompt", gradient_checkpointing=True),
            "learners.layout: shared_prompt needs learners.gradient_checkpointing false: a layer that is computed "
            "again in the backward pass would write its keys and values twice, so transformers drops the cache that "
            "the responses read the prompt from",
        ),
        (
            tgpo().training(groups_per_iteration=7),
            "training.groups_per_iteration: must be a multiple of updates_per_iteration (2), got 7: "
            "each update trains on as many groups",
        ),
        (
            tgpo().training(groups_per_iteration=2, group_size=2).learners(num_learners=3),
            "learners.num_learners: must be <= 2, the episodes of one update, got 3: "
            "a learner would have nothing to train on",
        ),
        (
            tgpo().training(old_logprobs="none"),
            "training.old_logprobs: none needs updates_per_iteration 1, got 2: after the first update the policy is no "
            "longer the one that sampled; write learner, sampler or null",
        ),
        (
            grpo().env_runners(top_p=0.95),
            "env_runners.top_p: must be 1.0 in training, got 0.95: a token outside the nucleus has log-prob -inf under "
            "the sampler, and the ratio no value",
        ),
        (grpo().learners(zero_stage=2), "learners.zero_stage: 2 needs learners.engine deepspeed, got torch"),
        (
            grpo().learners(offload="optimizer"),
            "learners.offload: optimizer needs learners.engine deepspeed, got torch",
        ),
        (
            grpo().learners(engine="deepspeed", offload="optimizer"),
            "learners.offload: optimizer needs zero_stage >= 1, got 0",
        ),
        (
            grpo().learners(engine="deepspeed", zero_stage=2, offload="optimizer_and_parameters"),
            "learners.offload: optimizer_and_parameters needs zero_stage 3, got 2",
        ),
        (
            grpo().evaluation(every=5),
            "evaluation.envs: required with evaluation.every 5: name a held-out set",
        ),
        (
            grpo().evaluation(envs=[{"id": "tgpo/Math-v0"}, {"id": "other:Math-v1"}]),
            "evaluation.envs.1.name: two sets are called 'Math' in the metrics; give one a name",
        ),
        (
            tgpo().guidance(decay=1e-5, schedule="cosine"),
            "guidance.decay: belongs to schedule linear, got 1e-05 with cosine; write 0",
        ),
        (
            tgpo().guidance(minimum=1e-3, schedule="constant"),
            "guidance.minimum: belongs to schedule linear, got 0.001 with constant; write 0",
        ),
        (tgpo().guidance(minimum=0.5), "guidance.minimum: must be <= guidance.weight (0.002), got 0.5"),
        (
            grpo().learners(token_budget=100).env_runners(max_prompt_tokens=40, max_response_tokens=61),
            "learners.token_budget: must be >= max_prompt_tokens + max_response_tokens = 101, got 100: "
            "one sequence has to fit",
        ),
        (
            SFTConfig().models(path="a/b").data(path="x", max_tokens=9).learners(token_budget=8),
            "learners.token_budget: must be >= data.max_tokens = 9, got 8: one sequence has to fit",
        ),
        (
            grpo().models(max_model_len=3000),
            "model.max_model_len: must be >= max_prompt_tokens + max_response_tokens = 3072, got 3000",
        ),
        (
            grpo().models(hf_overrides={"max_position_embeddings": 2048}),
            "model: max_prompt_tokens + max_response_tokens = 3072 exceeds the context of 2048 tokens; "
            "lower them or raise model.hf_overrides.max_position_embeddings",
        ),
    ],
    ids=lambda it: it.split(":")[0] if isinstance(it, str) else "",
)
def test_a_broken_rule_says_value_rule_and_fix(config: AlgorithmConfig, message: str):
    assert config.problems() == [message]
    with pytest.raises(ConfigError) as caught:
        config.check()
    assert str(caught.value) == message


def test_the_context_is_read_from_a_local_folder_and_overrides_go_first(tmp_path):
    path = model_folder(tmp_path / "policy", max_position_embeddings=100)
    config = grpo().models(path=path).env_runners(max_prompt_tokens=60, max_response_tokens=60)
    assert config.problems()[0].startswith(
        "model: max_prompt_tokens + max_response_tokens = 120 exceeds the context of 100"
    )
    assert config.models(hf_overrides={"max_position_embeddings": 120}).problems() == []


def test_the_teachers_context_counts_too(tmp_path):
    config = tgpo().teachers(path=model_folder(tmp_path / "teacher", max_position_embeddings=1000))
    assert config.problems()[0].startswith(
        "teachers.default: max_prompt_tokens + max_response_tokens + 1 = 3073 exceeds"
    )


def test_the_reference_is_checked_where_it_is_used(tmp_path):
    policy = model_folder(tmp_path / "policy", max_position_embeddings=100)
    config = grpo().models(path=policy).env_runners(max_prompt_tokens=40, max_response_tokens=60)
    assert config.problems() == []
    config.training(kl_weight=0.1)
    assert config.problems() == [
        "reference: max_prompt_tokens + max_response_tokens + 1 = 101 exceeds the context of 100 tokens; lower them or "
        "raise model.hf_overrides.max_position_embeddings"
    ]
    config.reference(path=str(tmp_path / "nowhere")).env_runners(max_response_tokens=50)
    assert [problem.split(":")[0] for problem in config.problems()] == ["reference.path"]


def test_the_kv_cache_must_hold_one_sequence(tmp_path):
    # 2 * 4 layers * 2 heads * 8 numbers * 4 bytes = 512 bytes a token; 3072 tokens: 1.5 MiB.
    facts = {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}
    config = grpo().models(path=model_folder(tmp_path / "policy", True, **facts), dtype="float32")
    assert config.env_runners(kv_cache_memory="1.5MiB").problems() == []
    assert config.env_runners(kv_cache_memory="1MiB").problems() == [
        "env_runners.kv_cache_memory: must be >= 1.5MiB, one sequence of 3072 tokens, got 1MiB"
    ]


def test_the_kv_cache_of_auto_is_judged_when_the_cluster_is_known(tmp_path):
    # 2^22 bytes a token in float32: 1024 tokens fill a CPU's 1 GiB, and 3072 do not fit
    facts = {"num_hidden_layers": 64, "num_attention_heads": 64, "hidden_size": 8192}
    config = grpo().models(path=model_folder(tmp_path / "policy", True, **facts), dtype="float32")
    assert config.problems() == []
    with pytest.raises(ConfigError, match=r"kv_cache_memory: must be >= 12GiB, one sequence of 3072 tokens"):
        check_resources(config, {"CPU": 8.0})
    check_resources(config, {"CPU": 8.0, "GPU": 8.0})  # the card is not known: vLLM measures it


def test_a_missing_model_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("./models/policy", "/nowhere/policy", "~/no_such_policy", "a/b/c"):
        problem = grpo().models(path=path).problems()[0]
        assert problem == f"model.path: no such folder: {path} (looked in {tmp_path}); write a folder or an org/name id"
    assert grpo().models(path="./models/policy").problems(files=False) == []


def test_a_model_folder_without_tokenizer_is_named(tmp_path):
    bare = model_folder(tmp_path / "bare", False)
    whole = model_folder(tmp_path / "whole")
    assert tgpo().models(path=bare).teachers(path=bare).problems() == [
        f"model.path: {bare} has no tokenizer (such as tokenizer.json): name one as model.tokenizer",
        f"teachers.default.path: {bare} has no tokenizer (such as tokenizer.json): "
        "name one as teachers.default.tokenizer",
    ]
    assert grpo().models(path=bare, tokenizer=whole).problems() == []
    assert grpo().models(path=whole, tokenizer=bare).problems() == [
        f"model.tokenizer: {bare} has no tokenizer (such as tokenizer.json): name a folder with one"
    ]


def test_a_folder_that_is_no_model_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    assert grpo().models(path=str(tmp_path)).problems() == [
        f"model.path: {tmp_path} has no config.json: it is not a Hugging Face model folder"
    ]


def test_a_cluster_that_is_too_small_is_refused_with_who_needs_what():
    with pytest.raises(ConfigError) as caught:
        check_resources(tgpo().learners(num_cpus_per_learner=0.5), {"CPU": 2.0})
    assert str(caught.value) == (
        "resources: 2.5 CPUs needed (learners 1 x 0.5, env_runners 1 x 1, teachers.default 1 x 1), the cluster has 2: "
        "lower num_cpus_per_* (fractions are allowed) or the counts, "
        "or let a local cluster count more with ray.num_cpus"
    )


def test_a_command_that_starts_some_of_the_actors_asks_for_the_room_of_these():
    config = tgpo().learners(num_cpus_per_learner=8)
    for kinds in (["env runner", "teacher default"], ["teacher default"] * 2):
        check_resources(config, {"CPU": 2.0}, only=kinds)
        with pytest.raises(ConfigError, match=r"2 CPUs needed .* the cluster has 1:"):
            check_resources(config, {"CPU": 1.0}, only=kinds)


def test_gpus_count_only_where_the_cluster_has_some():
    config = tgpo().teachers(num_replicas=2, tensor_parallel_size=2)
    check_resources(config, {"CPU": 4.0})
    check_resources(config, {"CPU": 4.0, "GPU": 6.0})
    with pytest.raises(ConfigError, match=r"^resources: 6 GPUs needed \(learners 1 x 1, env_runners 1 x 1, teachers"):
        check_resources(config, {"CPU": 4.0, "GPU": 4.0})
    with pytest.raises(ConfigError, match=r"^resources: 2 GPUs needed \(learners 1 x 2\), the cluster has 0"):
        config = SFTConfig().learners(num_gpus_per_learner=2.0)
        check_resources(config, {"CPU": 4.0})


def test_an_actor_larger_than_any_node_is_refused():
    config = tgpo().teachers(tensor_parallel_size=4)
    cluster = {"CPU": 16.0, "GPU": 8.0}
    check_resources(config, cluster, [{"CPU": 8.0, "GPU": 4.0}] * 2)
    with pytest.raises(ConfigError) as caught:
        check_resources(config, cluster, [{"CPU": 4.0, "GPU": 2.0}] * 4)
    assert str(caught.value) == (
        "resources: teachers.default needs 4 GPUs on one node, the largest node has 2: lower num_gpus_per_* and "
        "tensor_parallel_size"
    )


def test_fractions_that_add_up_to_the_cluster_fit():
    thirds = tgpo().learners(num_cpus_per_learner=0.1).env_runners(num_cpus_per_env_runner=0.2)
    check_resources(thirds.teachers(num_cpus_per_replica=0.7), {"CPU": 1.0})


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has sliding_attention"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "layer_types has linear_attention"),
        ({"sliding_window": 4096}, "sliding_window is 4096"),
        ({"sliding_window": 4096, "use_sliding_window": False}, None),
        ({"sliding_window": 4096, "layer_types": ["full_attention"]}, None),
    ],
)
def test_prompts_are_shared_by_models_that_keep_all_of_them(tmp_path, facts: dict[str, Any], reason: str | None):
    path = model_folder(tmp_path / "model", **facts)
    message = (
        f"learners.layout: shared_prompt needs the keys and values of the whole prompt in every layer, and {reason} in "
        f"config.json of {path}; use padded or packed"
    )
    config = grpo().models(path=path).learners(layout="shared_prompt")
    assert config.problems() == ([] if reason is None else [message])
    assert config.learners(layout="packed").problems() == []


def test_auto_layout_is_padded_without_flash_attention_and_packed_with_it(monkeypatch):
    from tgpo_ray.config import sections

    config = grpo()
    assert config.learners.layout == "auto"
    assert [config.resolved(gpus=gpus).learners.layout for gpus in (False, True)] == ["padded", "padded"]
    monkeypatch.setattr(sections, "flash_attention", lambda *_, **__: "flash_attention_2")
    assert [config.resolved(gpus=gpus).learners.layout for gpus in (False, True)] == ["padded", "packed"]
    assert config.models(dtype="float32").resolved(gpus=True).learners.layout == "padded"  # the kernels want halves
    assert config.learners(layout="shared_prompt").resolved(gpus=True).learners.layout == "shared_prompt"


@pytest.mark.parametrize("layout", ["auto", "padded", "packed", "shared_prompt"])
def test_the_plan_names_the_layout(layout: Any):
    assert grpo().learners(layout=layout).facts()["layout of a micro-batch"].startswith(f"{layout}: ")
