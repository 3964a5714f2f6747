"""RoPE base and context from `model.hf_overrides` reach learner, vLLM and export alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.episodes import make_episode
from tgpo_ray.cluster.actors import actor, kill
from tgpo_ray.env_runners.building import engine_spec
from tgpo_ray.episode import EpisodeGroup
from tgpo_ray.learners.building import learner_spec
from tgpo_ray.learners.learner import Learner
from tgpo_ray.learners.planning import Piece
from tgpo_ray.models import character_tokenizer, write_model
from tgpo_ray.models.engine_arguments import engine_environment
from tgpo_ray.teachers import Teacher, TeacherSpec

pytestmark = pytest.mark.slow

ORIGINAL_CONTEXT, CONTEXT, PROMPT, RESPONSE = 64, 256, 8, 192
BASE = 40000.0
OVERRIDES = {
    "rope_parameters": {"rope_type": "default", "rope_theta": BASE},
    "max_position_embeddings": CONTEXT,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with a context of 64 whose attention looks at positions: a plain random one hardly attends at all."""
    from transformers import AutoModelForCausalLM

    folder = write_model(
        tmp_path_factory.mktemp("short"), "qwen2", character_tokenizer([*"0123456789+="]), hidden_size=64,
        intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=ORIGINAL_CONTEXT, tie_word_embeddings=True,
    )  # fmt: skip
    policy = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for layer in policy.model.layers:
            for weight in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                weight.weight.mul_(12.0)
            layer.self_attn.o_proj.weight.mul_(12.0)
    policy.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def config(make_config: Callable[..., Any], model: str) -> Any:
    config = make_config(
        model={"path": model, "hf_overrides": OVERRIDES},
        env_runners={"max_prompt_tokens": PROMPT, "max_response_tokens": CONTEXT - PROMPT},
    )
    return config.check().resolved(gpus=False)


@pytest.fixture(scope="module")
def group() -> EpisodeGroup:
    """Two texts three times as long as the model's own context."""
    rng = np.random.default_rng(0)
    texts = [[rng.integers(2, 14, length) for length in (PROMPT, RESPONSE)] for _ in range(2)]
    episodes = [
        make_episode(prompt=prompt, response=response, stop_reason="length", problem_index=i)
        for i, (prompt, response) in enumerate(texts)
    ]
    return EpisodeGroup(tuple(episodes))


@pytest.fixture(scope="module")
def learner(config: Any) -> Learner:
    return Learner(learner_spec(config))


@pytest.fixture(scope="module")
def learner_logprobs(learner: Learner, group: EpisodeGroup) -> np.ndarray:
    """(2, RESPONSE)"""
    logprobs = learner.logprobs([Piece(0, group, {}, np.zeros(2, np.float32), (0, 1))])
    return np.stack([logprobs[0, 0], logprobs[0, 1]])


@pytest.fixture(scope="module")
def engine_logprobs(ray_cluster: Any, config: Any, group: EpisodeGroup) -> Iterator[np.ndarray]:
    """(2, RESPONSE), from the engine that the runners get."""
    import ray

    spec = TeacherSpec(engine_spec(config), policy_tokenizer=config.model.path)
    engine = actor(Teacher, spec, num_cpus=0.5, runtime_env={"env_vars": engine_environment(gpu=False)})
    guidance: Any = ray.get(engine.annotate.remote(group, ["logprob"]))
    yield np.stack([answer.teacher_logprobs for answer in guidance])
    kill([engine])


def transformers_logprobs(folder: str, group: EpisodeGroup) -> np.ndarray:
    """(2, RESPONSE) of the model as its folder describes it."""
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(folder)
    ids = np.stack([np.concatenate([e.prompt_ids, e.response_ids]) for e in group.episodes])
    tokens: Tensor = torch.from_numpy(ids.astype(np.int64))
    with torch.no_grad():
        logprobs = policy(tokens).logits.log_softmax(-1)[:, PROMPT - 1 : -1]  # (2, RESPONSE, V)
    return logprobs.gather(-1, tokens[:, PROMPT:, None])[..., 0].numpy()


def test_the_overrides_change_what_the_model_says(
    model: str, group: EpisodeGroup, learner_logprobs: np.ndarray
) -> None:
    # without them the comparisons below would hold of any two that forget them
    assert np.abs(learner_logprobs - transformers_logprobs(model, group)).max() > 0.01


def test_learner_and_engine_agree_beyond_the_original_context(
    learner_logprobs: np.ndarray, engine_logprobs: np.ndarray
) -> None:
    beyond = slice(ORIGINAL_CONTEXT - PROMPT, None)
    assert np.abs(learner_logprobs - engine_logprobs).max() <= 1e-4
    assert learner_logprobs[:, beyond].shape == (2, PROMPT + RESPONSE - ORIGINAL_CONTEXT)
    assert np.abs(learner_logprobs[:, beyond] - engine_logprobs[:, beyond]).max() <= 1e-4


def test_the_export_holds_the_overrides_and_says_the_same(
    learner: Learner, group: EpisodeGroup, learner_logprobs: np.ndarray, tmp_path: Path
) -> None:
    learner.export(tmp_path)
    exported = json.loads((tmp_path / "config.json").read_text())
    assert exported["rope_parameters"]["rope_theta"] == BASE
    assert exported["max_position_embeddings"] == CONTEXT
    np.testing.assert_allclose(transformers_logprobs(str(tmp_path), group), learner_logprobs, atol=1e-4)
