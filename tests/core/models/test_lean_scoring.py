"""Lean scoring in a real vLLM: its worker says of the response rows what transformers and prompt_logprobs say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests.scoring import given, request
from tgpo_ray.models import Scores, ScoringRequest, Want
from tgpo_ray.models.engine_spec import EngineSpec, Sampling

# vLLM and transformers sum in another order: where the two best are closer than this, either may be named
TIE, LOGPROB_BOUND = 1e-4, 1e-4
BLOCK, TOKENS_A_STEP = 32, 48  # of the engine below: a prefill longer than a step is split


class Scorer:
    """A backend that reads at most TOKENS_A_STEP tokens a step and whose cache is small: prefills are split."""

    def __init__(self, spec: EngineSpec) -> None:
        import tgpo_ray.models.engine
        from tgpo_ray.teachers.backends.vllm_backend import VllmBackend

        arguments = tgpo_ray.models.engine.engine_arguments
        tgpo_ray.models.engine.engine_arguments = lambda spec, *, gpu: {  # pyright: ignore[reportAttributeAccessIssue]
            **arguments(spec, gpu=gpu),
            "max_num_batched_tokens": TOKENS_A_STEP,
            "enable_chunked_prefill": True,
        }
        self._backend = VllmBackend(spec)

    def is_lean(self) -> bool:
        return self._backend.lean

    def score(self, requests: Sequence[ScoringRequest], *want: str, lean: bool = True) -> list[Scores]:
        self._backend.lean = lean
        return self._backend.score(requests, Want.parse(want))

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Any]]:
        return self._backend.generate(prompts, sampling)

    def step_with_a_failing_head(self, requests: Sequence[ScoringRequest]) -> str:
        """The message of a score whose LM head fails in the worker."""
        import tgpo_ray.models.lean_scoring as lean_scoring

        works, lean_scoring.predictions = lean_scoring.predictions, lambda *_: 1 / 0
        try:
            self.score(requests, "argmax")
        except RuntimeError as error:
            return str(error)
        finally:
            lean_scoring.predictions = works
        return "nothing was raised"


@pytest.fixture(scope="module")
def scorer(ray_cluster: Any, tiny_models: dict[str, str]) -> Iterator[Any]:
    import ray

    from tgpo_ray.models.engine_arguments import engine_environment

    spec = EngineSpec(tiny_models["teacher"], "float32", 128, kv_cache_memory=256 * 2**10, max_num_seqs=8)
    environment = {"env_vars": engine_environment(gpu=False)}
    actor: Any = ray.remote(num_cpus=0.1, runtime_env=environment)(Scorer).remote(spec)
    yield lambda name, *args, **kwargs: ray.get(getattr(actor, name).remote(*args, **kwargs))
    ray.kill(actor)


@pytest.fixture(scope="module")
def model(tiny_models: dict[str, str]) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_models["teacher"])


def batch() -> list[ScoringRequest]:
    """Prompts shorter and longer than a block and exactly one; equal mates, mates that part late, one-token and
    long responses."""
    rng = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return rng.integers(2, 19, length)

    requests = []
    for length in (1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 70):
        prompt, response = ids(length), ids(45)
        other = response.copy()
        other[-1] = (other[-1] + 1) % 19
        requests += [
            request([*prompt, *written], length)
            for written in (response, ids(45), response, other, response[:40], response[:1], [1], ids(17))
        ]
    return requests


def check(model: Any, one: ScoringRequest, scores: Scores) -> None:
    """Every field against transformers."""
    with torch.no_grad():
        states = model.model(torch.tensor([one.ids.tolist()])).last_hidden_state[0, one.first - 1 : -1]  # (R, D)
        expected = model.lm_head(states).log_softmax(-1)  # (R, V)
    named = expected.gather(1, torch.tensor(given(scores.argmax_ids).tolist())[:, None])[:, 0]
    assert (expected.max(-1).values - named).max() < TIE
    written = expected.gather(1, torch.from_numpy(one.ids[one.first :]).long()[:, None])[:, 0]
    np.testing.assert_allclose(given(scores.logprobs), written, atol=LOGPROB_BOUND)
    np.testing.assert_allclose(given(scores.topk_logprobs), expected.topk(3).values, atol=LOGPROB_BOUND)
    best = expected.gather(1, torch.tensor(given(scores.topk_ids).tolist()))
    np.testing.assert_allclose(given(scores.topk_logprobs), best, atol=LOGPROB_BOUND)
    np.testing.assert_allclose(given(scores.hidden), states, atol=LOGPROB_BOUND)


def test_every_field_is_that_of_transformers_whatever_is_shared_or_split(scorer: Any, model: Any):
    assert scorer("is_lean")
    requests = batch()
    for _ in range(2):  # the second call finds nothing in the cache that it may not read
        for one, scores in zip(
            requests, scorer("score", requests, "argmax", "logprob", "topk:3", "hidden"), strict=True
        ):
            check(model, one, scores)


def test_lean_scores_are_those_of_prompt_logprobs(scorer: Any):
    requests = batch()
    lean = scorer("score", requests, "argmax", "logprob")
    flat = scorer("score", requests, "argmax", "logprob", lean=False)
    for ours, theirs in zip(lean, flat, strict=True):
        np.testing.assert_allclose(given(ours.logprobs), given(theirs.logprobs), atol=LOGPROB_BOUND)
        np.testing.assert_array_equal(given(ours.argmax_ids), given(theirs.argmax_ids))
        assert given(ours.argmax_ids).dtype == np.int32
        assert given(ours.logprobs).dtype == np.float32


def test_an_argmax_alone_is_that_of_all_fields(scorer: Any):
    requests = batch()[8:16]
    alone, all_fields = scorer("score", requests, "argmax"), scorer("score", requests, "argmax", "topk:3", "hidden")
    for one, other in zip(alone, all_fields, strict=True):
        np.testing.assert_array_equal(one.argmax_ids, other.argmax_ids)
        assert one.logprobs is one.topk_ids is one.hidden is one.sampled_ids is None


def test_generating_between_two_calls_changes_neither(scorer: Any):
    requests = batch()[:16]
    prompts = [one.ids[: one.first].tolist() for one in requests[::8]]
    before = scorer("score", requests, "logprob")
    first = scorer("generate", prompts, Sampling(max_tokens=6, temperature=0.0))
    after = scorer("score", requests, "logprob")
    again = scorer("generate", prompts, Sampling(max_tokens=6, temperature=0.0))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=LOGPROB_BOUND)
    assert [[c.token_ids.tolist() for c in found] for found in first] == [
        [c.token_ids.tolist() for c in found] for found in again
    ]


def test_samples_are_drawn_from_the_teachers_distribution(scorer: Any, model: Any):
    rng = np.random.default_rng(1)
    requests = [request(rng.integers(2, 19, 60), 4) for _ in range(24)]  # 1344 draws
    drawn = scorer("score", requests, "sample", "logprob")
    with torch.no_grad():
        tables = [model(torch.tensor([one.ids.tolist()])).logits[0, 3:-1].softmax(-1) for one in requests]
    expected = torch.cat(tables).mean(0)  # (V,), the mean of the rows' distributions
    ids = torch.from_numpy(np.concatenate([given(scores.sampled_ids) for scores in drawn])).long()
    share = torch.bincount(ids, minlength=len(expected)) / len(ids)
    assert (share - expected).abs().max() < 4 * (expected.max() / len(ids)).sqrt()
    second = scorer("score", requests, "sample")
    assert any((one.sampled_ids != other.sampled_ids).any() for one, other in zip(drawn, second, strict=True))


def test_a_request_without_a_response_gets_fields_without_rows(scorer: Any):
    (scores,) = scorer("score", [request([3, 4, 5], 3)], "argmax", "topk:2", "hidden")
    assert given(scores.argmax_ids).shape == (0,)
    assert given(scores.topk_logprobs).shape == (0, 2)
    assert given(scores.hidden).shape == (0, 48)


def test_a_failure_in_the_worker_is_told_and_the_engine_goes_on(scorer: Any, model: Any):
    requests = batch()[:8]
    assert "lean scoring failed: ZeroDivisionError" in scorer("step_with_a_failing_head", requests)
    for one, scores in zip(requests, scorer("score", requests, "argmax", "logprob", "topk:3", "hidden"), strict=True):
        check(model, one, scores)


def test_prompt_logprobs_give_neither_samples_nor_hidden_states(scorer: Any):
    with pytest.raises(ValueError, match="neither 'sample' nor 'hidden'"):
        scorer("score", batch()[:1], "hidden", lean=False)
