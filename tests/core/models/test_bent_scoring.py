"""vLLM scores a teacher that bends its logits as transformers does, and its hidden states give the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.core.models.bent_models import SIZE, write_kind
from tests.core.models.test_lean_scoring import LOGPROB_BOUND, Scorer
from tests.scoring import given, request
from tgpo_ray.kernels import chunked_logprobs
from tgpo_ray.models import find_head, logit_transform
from tgpo_ray.models.engine_spec import EngineSpec


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma2", "granite", "phi"])
def test_lean_scores_hold_scale_cap_and_bias(ray_cluster: Any, name: str, tmp_path: Path):
    import ray
    from transformers import AutoModelForCausalLM

    from tgpo_ray.models.engine_arguments import engine_environment

    # the attention of vLLM has no heads of 16 numbers
    folder = write_kind(tmp_path, name, hidden_size=64, head_dim=32, num_key_value_heads=2)
    spec = EngineSpec(folder, "float32", 128, kv_cache_memory=2 * 2**20, max_num_seqs=4)
    environment = {"env_vars": engine_environment(gpu=False)}
    actor: Any = ray.remote(num_cpus=0.1, runtime_env=environment)(Scorer).remote(spec)
    ids = np.random.default_rng(0).integers(2, SIZE, 40)
    try:
        assert ray.get(actor.is_lean.remote())
        (scores,) = ray.get(actor.score.remote([request(ids, 5)], "logprob", "hidden"))
    finally:
        ray.kill(actor)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    targets = torch.from_numpy(ids[5:])[:, None]
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)[None]).logits[0, 4:-1].log_softmax(-1).gather(1, targets)[:, 0]
    weight, bias = find_head(folder).read()
    hidden, transform = torch.tensor(given(scores.hidden)), logit_transform(model.config)
    rebuilt, _ = chunked_logprobs(hidden, weight, targets, bias=bias, transform=transform)
    np.testing.assert_allclose(given(scores.logprobs), expected, atol=LOGPROB_BOUND)
    np.testing.assert_allclose(rebuilt[:, 0], expected, atol=LOGPROB_BOUND)
