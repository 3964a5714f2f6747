"""An exported policy is an ordinary Hugging Face folder: a vLLM server of its own serves it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tgpo_ray.engine import engine_environment
from tgpo_ray.learner import LearnerSpec
from tgpo_ray.learner_engines import EngineOptions
from tgpo_ray.learner_group import LearnerGroup, Placement

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
START_S = 240


@pytest.fixture(scope="module")
def exported(ray_cluster: Any, tiny_models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks under ZeRO-3 export."""
    folder = tmp_path_factory.mktemp("export") / "policy"
    options = EngineOptions(engine="deepspeed", zero_stage=3, lr=1e-3)
    spec = LearnerSpec(tiny_models["policy"], tiny_models["policy"], options, threads=1)
    learners = LearnerGroup(spec, Placement(2, 0.25, storage_path=str(folder.parent / "runs")), token_budget=512)
    try:
        learners.export(str(folder))
    finally:
        learners.stop()
    return folder


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[str]:
    """Base address of a vLLM server with the exported folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(exported), "--port", str(port),
        "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "64", "--enforce-eager",
        "--kv-cache-memory-bytes", str(64 * 2**20), "--served-model-name", "policy",
    ]  # fmt: skip
    environment = {**os.environ, **engine_environment(gpu=False)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/health", process)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with status {process.returncode}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(1.0)
    raise TimeoutError(f"no server at {url} after {START_S} s")


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
