"""An exported policy is an ordinary Hugging Face folder: a vLLM server of its own serves it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.core.vllm_server import vllm_server
from tgpo_ray.learners.group import LearnerGroup
from tgpo_ray.learners.learner import LearnerSpec
from tgpo_ray.learners.strategies import StrategyOptions
from tgpo_ray.learners.train_run import Placement, TrainRun

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def exported(ray_cluster: Any, tiny_models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks under ZeRO-3 export."""
    folder = tmp_path_factory.mktemp("export") / "policy"
    options = StrategyOptions(strategy="deepspeed", zero_stage=3, lr=1e-3)
    spec = LearnerSpec(tiny_models["policy"], tiny_models["policy"], options, threads=1)
    learners = LearnerGroup(spec, Placement(2, 0.25), TrainRun(str(folder.parent / "runs")), token_budget=512)
    try:
        learners.export(str(folder))
    finally:
        learners.stop()
    return folder


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[str]:
    with vllm_server(str(exported), "policy") as address:
        yield address


def test_a_vllm_server_writes_what_transformers_writes_with_the_exported_folder(exported: Path, server: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported)
    model: Any = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    prompt = tokenizer.encode("7*8=")
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :]
    body = {
        "model": "policy", "prompt": prompt, "max_tokens": 8, "temperature": 0.0, "return_token_ids": True
    }  # fmt: skip
    request = urllib.request.Request(
        f"{server}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        choice = json.load(answer)["choices"][0]
    assert choice["token_ids"] == expected.tolist()
