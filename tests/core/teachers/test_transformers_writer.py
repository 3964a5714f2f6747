"""Traces of the transformers teacher: what is drawn, where it ends, and its log-probs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import SYMBOLS
from tests.scoring import given
from tgpo_ray.models import character_tokenizer, write_model
from tgpo_ray.models.engine_spec import EngineSpec, Sampling
from tgpo_ray.teachers.backends.transformers_backend import TransformersBackend

BOUND = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose folder asks for a repetition penalty and the 2 best tokens, which must not leak into traces."""
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
    folder = write_model(
        tmp_path_factory.mktemp("teacher") / "qwen2", "qwen2", character_tokenizer(SYMBOLS), seed=3, hidden_size=48,
        intermediate_size=64, initializer_range=0.2, tie_word_embeddings=False, **shape,
    )  # fmt: skip
    path = folder / "generation_config.json"
    path.write_text(path.read_text().replace("{", '{"repetition_penalty": 1.5, "do_sample": true, "top_k": 2,', 1))
    return folder


@pytest.fixture(scope="module")
def backend(folder: Path) -> TransformersBackend:
    return TransformersBackend(EngineSpec(str(folder), "float32", max_model_len=128, kv_cache_memory=0))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def greedy(model: Any, prompt: list[int], length: int) -> list[int]:
    """The best token after each, by full forward passes, up to an end of sequence."""
    ids = [*prompt]
    with torch.no_grad():
        while len(ids) < len(prompt) + length and ids[-1] != model.config.eos_token_id:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_traces_are_those_of_transformers_whatever_pads_them(backend: TransformersBackend, model: Any):
    prompts = [[5, 6, 7], [2, 9, 4, 4, 8, 3, 12, 2, 2, 7, 5], [10, 3, 3, 6]]
    found = backend.generate(prompts, Sampling(max_tokens=12, temperature=0.0, logprobs=True), n=2)
    for prompt, completions in zip(prompts, found, strict=True):
        expected = greedy(model, prompt, 12)
        with torch.no_grad():
            read = model(torch.tensor([prompt + expected])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        for completion in completions:
            assert completion.token_ids.tolist() == expected
            np.testing.assert_allclose(given(completion.logprobs), read.max(-1).values.numpy(), atol=BOUND)


def test_draws_end_at_an_end_of_sequence_or_at_their_length(backend: TransformersBackend):
    ends = backend.tokenizer.eos_token_id
    ((*completions,),) = backend.generate([[5, 6]], Sampling(max_tokens=24, temperature=1.5, logprobs=True), n=40)
    assert len({tuple(completion.token_ids.tolist()) for completion in completions}) > 30
    for completion in completions:
        assert completion.token_ids.dtype == np.int32
        assert ends not in completion.token_ids[:-1]
        assert (completion.stop_reason == "stop") == (completion.token_ids[-1] == ends)
        assert completion.stop_reason == "stop" or len(completion.token_ids) == 24
        assert len(given(completion.logprobs)) == len(completion.token_ids)
    assert {completion.stop_reason for completion in completions} == {"stop", "length"}


def test_the_log_probs_of_draws_are_those_at_their_temperature(backend: TransformersBackend, model: Any):
    ((completion,),) = backend.generate([[5, 6, 7]], Sampling(max_tokens=9, temperature=0.5, logprobs=True))
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7, *completion.token_ids.tolist()]])).logits[0, 2:-1]
    expected = (logits / 0.5).log_softmax(-1).gather(1, torch.tensor(completion.token_ids.tolist())[:, None])[:, 0]
    np.testing.assert_allclose(given(completion.logprobs), expected.numpy(), atol=BOUND)


def test_a_stop_text_ends_a_trace_and_belongs_to_it(backend: TransformersBackend):
    sampling = Sampling(max_tokens=40, temperature=1.5, stop=("7", "+2", "9", "30"))
    ((*completions,),) = backend.generate([[5, 6]], sampling, n=20)
    stopped = 0
    for completion in completions:
        text = backend.tokenizer.decode(completion.token_ids)
        has_stop = any(stop in text for stop in sampling.stop)
        stopped += has_stop
        assert not has_stop or text.endswith(sampling.stop)
        before = backend.tokenizer.decode(completion.token_ids[:-1])
        assert not any(stop in before for stop in sampling.stop)
        assert completion.stop_reason == "stop" or len(completion.token_ids) == 40
    assert 3 < stopped < 20


def test_log_probs_of_a_nucleus_are_refused(backend: TransformersBackend):
    with pytest.raises(ValueError, match=r"log-probs need top_p 1.0, got 0.9"):
        backend.generate([[5]], Sampling(max_tokens=2, top_p=0.9, logprobs=True))
