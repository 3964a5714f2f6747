"""Which keys of a teacher go with which backend, and what reaches its actors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tgpo_ray.algorithms import TGPOConfig
from tgpo_ray.config import resource_plan
from tgpo_ray.teachers import ServerSpec
from tgpo_ray.teachers.building import teacher_spec

URL = "http://host:8000"


def tgpo(**teacher: Any) -> TGPOConfig:
    config = TGPOConfig().environment("tgpo/Math-v0").models(path="org/policy")
    return config.teachers(**{"path": "org/teacher", **teacher})


@pytest.mark.parametrize(
    "teacher",
    [
        {"backend": "vllm", "kv_cache_memory": "40GiB", "tensor_parallel_size": 2, "max_num_seqs": 8},
        {"backend": "transformers", "token_budget": 4096, "hf_overrides": {"sliding_window": None}},
        {"backend": "remote", "url": URL, "served_model": "big", "api_key_env": "KEY", "max_num_seqs": 8},
        {"backend": "remote", "url": "https://host/v1", "num_gpus_per_replica": 0.0},
    ],
)
def test_the_keys_of_its_own_backend_break_no_rule(teacher: dict[str, Any]):
    assert tgpo(**teacher).problems() == []
    for gpus in (False, True):
        assert tgpo(**teacher).resolved(gpus=gpus).problems() == []


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"url": URL}, f"url: belongs to backend remote, got {URL} with backend vllm; leave it out"),
        (
            {"backend": "transformers", "served_model": "x"},
            "served_model: belongs to backend remote, got x with backend transformers; leave it out",
        ),
        (
            {"token_budget": 99},
            "token_budget: belongs to backend transformers, got 99 with backend vllm; leave it out",
        ),
        (
            {"backend": "transformers", "kv_cache_memory": "40GiB"},
            "kv_cache_memory: belongs to backend vllm, got 40GiB with backend transformers; leave it out",
        ),
        (
            {"backend": "transformers", "max_num_seqs": 8},
            "max_num_seqs: belongs to backend vllm and remote, got 8 with backend transformers; leave it out",
        ),
        (
            {"backend": "remote", "url": URL, "tensor_parallel_size": 2},
            "tensor_parallel_size: belongs to backend vllm, got 2 with backend remote; leave it out",
        ),
        (
            {"backend": "remote", "url": URL, "hf_overrides": {"a": 1}},
            "hf_overrides: belongs to backend vllm and transformers, got {'a': 1} with backend remote; leave it out",
        ),
        ({"backend": "remote"}, "url: required with backend remote: the server's address, as http://host:8000"),
        ({"backend": "remote", "url": "host:8000"}, "url: must begin with http:// or https://, got 'host:8000'"),
        (
            {"backend": "remote", "url": URL, "num_gpus_per_replica": 1.0},
            "num_gpus_per_replica: must be 0 with backend remote, got 1: the model lives in the server",
        ),
    ],
)
def test_a_key_of_another_backend_is_refused(teacher: dict[str, Any], message: str):
    assert tgpo(**teacher).problems() == [f"teachers.default.{message}"]


def test_a_served_teacher_takes_no_gpu_of_a_cluster_that_has_some():
    counts = {row.kind: row.gpus for row in resource_plan(tgpo(backend="remote", url=URL), gpus=True)}
    assert counts["teacher default"] == 0.0
    counts = {row.kind: row.gpus for row in resource_plan(tgpo(backend="transformers"), gpus=True)}
    assert counts["teacher default"] == 1.0


def test_a_served_teacher_needs_no_weights_here_and_no_kv_cache(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("{}")
    assert tgpo(path=str(tmp_path), backend="remote", url=URL).problems() == []
    (problem,) = tgpo(path=str(tmp_path), backend="transformers").problems()
    assert "has no config.json" in problem
    facts = {"num_hidden_layers": 64, "num_attention_heads": 64, "hidden_size": 8192, "max_position_embeddings": 3072}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    # 1024 + 2048 tokens fill the context; only an engine's prefill asks for one more, and only vLLM keeps a cache
    assert tgpo(path=str(tmp_path), backend="transformers").problems() == []
    problems = tgpo(path=str(tmp_path), kv_cache_memory="1GiB").problems()
    assert [problem.split(":")[0] for problem in problems] == [
        "teachers.default",
        "teachers.default.kv_cache_memory",
    ]


def test_what_a_yaml_says_reaches_the_teachers_actors():
    config = tgpo(backend="remote", url=URL, served_model="big", api_key_env="KEY")
    config = config.fault_tolerance(teacher_timeout_s=50.0).resolved(gpus=True)
    spec = teacher_spec(config, config.teachers["default"], unmapped="mask")
    assert (spec.backend, spec.gpu) == ("remote", False)
    assert spec.server == ServerSpec(URL, "big", "KEY", timeout_s=40.0)
    config = tgpo(backend="transformers", token_budget=77).resolved(gpus=True)
    spec = teacher_spec(config, config.teachers["default"], unmapped="mask")
    assert (spec.backend, spec.gpu, spec.token_budget) == ("transformers", True, 77)
