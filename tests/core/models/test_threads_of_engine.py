"""An engine's tokens do not depend on its number of threads, which other actors' work decides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SAMPLE = """
import json, sys
import torch
from tgpo_ray.models import Engine, EngineSpec, Sampling, completions

engine = Engine(EngineSpec(sys.argv[1], "float32", 512, kv_cache_memory=2**28))
found = []
for threads in (1, 2):
    torch.set_num_threads(threads)
    for seed, prompt in enumerate([[5, 6, 7], [8, 9], [10] * 100]):
        engine.generate(prompt, Sampling(64, logprobs=True, seed=100 * seed), n=8)
    outputs = engine.finish()
    responses = [it for key in sorted(outputs, key=int) for it in completions(outputs[key])]
    found.append([[it.token_ids.tolist(), it.logprobs.tolist()] for it in responses])
print(json.dumps(found[0] == found[1]))
"""


def test_tokens_and_log_probs_are_the_same_to_the_last_bit_with_one_thread_and_with_two(tmp_path: Path):
    from tgpo_ray.models import byte_level_tokenizer, engine_environment, write_model

    tokenizer: Any = byte_level_tokenizer(["some words of a text that has a few pieces"] * 4, 300)
    shape = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "vocab_size": 32768}
    folder = write_model(tmp_path / "model", "qwen3", tokenizer, max_position_embeddings=512, **shape)
    result = subprocess.run(
        [sys.executable, "-c", SAMPLE, str(folder)],
        env=os.environ | engine_environment(gpu=False),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout.splitlines()[-1])
