"""Seeded requests in a real vLLM on a CPU, with more prompts than one step of the engine reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.paths import ROOT
from tgpo_ray.models import engine_environment

pytestmark = pytest.mark.slow
NUM_PROMPTS, PROMPT, GROUP_SIZE = 40, 100, 2
SCRIPT = f"""
import json, sys
import numpy as np
from tgpo_ray.models import Engine, EngineSpec, Sampling, completions

engine = Engine(EngineSpec(sys.argv[1], "float32", 128, kv_cache_memory=64 * 2**20))
rng = np.random.default_rng(0)
prompts = [rng.integers(2, 12, {PROMPT}) for _ in range({NUM_PROMPTS})]
budget = engine._engine.vllm_config.scheduler_config.max_num_batched_tokens

def answers(order):
    ids = {{i: engine.generate(prompts[i], Sampling(8, seed=100 * i), n={GROUP_SIZE}) for i in order}}
    outputs = engine.finish()
    return [[c.token_ids.tolist() for c in completions(outputs[ids[i]])] for i in sorted(ids)]

print(json.dumps([budget, answers(range({NUM_PROMPTS})), answers(reversed(range({NUM_PROMPTS})))]))
"""


def test_more_prompts_than_a_step_reads_are_answered_and_their_order_does_not_matter(tiny_models: Any) -> None:
    environment = {**os.environ, **engine_environment(gpu=False), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, tiny_models["policy"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    budget, forward, backward = json.loads(done.stdout.splitlines()[-1])
    assert budget < NUM_PROMPTS * PROMPT, "all prompts fit into one step, so no prefill could be split"
    assert [len(group) for group in forward] == [GROUP_SIZE] * NUM_PROMPTS
    assert forward == backward
