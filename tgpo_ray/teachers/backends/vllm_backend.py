"""A teacher's model in vLLM, in this process."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from tgpo_ray.models import (
    Completion,
    Engine,
    EngineSpec,
    RequestOutput,
    Sampling,
    Scores,
    ScoringRequest,
    VocabularyTokenizer,
    Want,
    completions,
    split_prompt_logprobs,
)

logger = logging.getLogger(__name__)


class VllmBackend:
    """A backend that scores response rows inside vLLM's worker, with one prefill a request and shared prompts.

    A probe at the start tests whether this vLLM allows it. If not, the backend uses `prompt_logprobs`. They give the
    same numbers more slowly, and neither samples nor hidden states.
    """

    def __init__(self, spec: EngineSpec, *, gpu: bool = False, lean: bool = True) -> None:
        self._engine = Engine(spec, gpu=gpu)
        self.lean = lean and self._probe()

    @property
    def tokenizer(self) -> VocabularyTokenizer:
        return self._engine.tokenizer

    def score(self, requests: Sequence[ScoringRequest], want: Want) -> list[Scores]:
        return self._engine.score(requests, want) if self.lean else self._score_by_prompt_logprobs(requests, want)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, n: int = 1) -> list[list[Completion]]:
        ids = [self._engine.generate(prompt, sampling, n=n) for prompt in prompts]
        outputs = self._engine.finish()
        return [completions(outputs[request_id]) for request_id in ids]

    def stop(self) -> None:
        """End the engine's other processes."""
        self._engine.stop()

    def _score_by_prompt_logprobs(self, requests: Sequence[ScoringRequest], want: Want) -> list[Scores]:
        if want.sample or want.hidden:
            raise ValueError(
                "prompt_logprobs, all that this vLLM lets us have, give neither 'sample' nor 'hidden': "
                "backend 'transformers' gives both"
            )
        width = max(want.top_k, 1)
        ids = [self._engine.prompt_logprobs(request.ids, top_k=width) for request in requests]
        outputs = self._engine.finish()
        return [
            _scores(outputs[request_id], request, want, width)
            for request_id, request in zip(ids, requests, strict=True)
        ]

    def _probe(self) -> bool:
        """Returns whether lean scoring agrees with `prompt_logprobs`, on three requests that share all they can."""
        requests, want = probe_requests(self._engine.spec.max_model_len), Want(argmax=True, logprob=True)
        try:
            lean = self._engine.score(requests, want)
            differs = disagree(lean, self._score_by_prompt_logprobs(requests, want))
            reason = "its figures are others" if differs else ""
        except Exception as error:  # another vLLM may differ in any internal
            reason = f"{type(error).__name__}: {error}"
        if reason:
            logger.warning("no lean scoring in this vLLM (%s): teachers use prompt_logprobs, which are slower", reason)
        return not reason


def probe_requests(max_model_len: int) -> list[ScoringRequest]:
    """Returns three mates over small ids. The second differs at the first response token, the third at the last."""
    length = min(100, max_model_len - 1)
    # at 64 the prompt fills its blocks, so the cache covers the row of the first response token
    first = 64 if length > 66 else length // 2
    ids = np.random.default_rng(0).integers(0, 16, length).astype(np.int32)  # (M,)
    early, late = ids.copy(), ids.copy()
    early[first], late[-1] = 15 - ids[first], 15 - ids[-1]
    return [ScoringRequest(each, max(first, 1)) for each in (ids, early, late)]


def disagree(lean: Sequence[Scores], flat: Sequence[Scores]) -> bool:
    """Returns whether two backends differ by more than rounding.

    The yardstick is the difference that a shift by one position would make.
    """
    one, other = (np.concatenate([s.logprobs for s in scores if s.logprobs is not None]) for scores in (lean, flat))
    # one and other: (N,), the rows of all requests
    shifted = np.abs(one[1:] - other[:-1]).mean()
    same = [a.argmax_ids == b.argmax_ids for a, b in zip(lean, flat, strict=True)]
    # ties are common in bfloat16, so half of the ids may differ
    return bool(np.abs(one - other).mean() > 0.1 * shifted or np.concatenate(same).mean() < 0.5)


def _scores(output: RequestOutput, request: ScoringRequest, want: Want, width: int) -> Scores:
    # (R,), (R, k), (R, k): row j of vLLM's belongs to prompt token j + 1
    logprobs, ids, id_logprobs = (values[request.first - 1 :] for values in split_prompt_logprobs(output, width))
    return Scores(
        argmax_ids=ids[:, 0] if want.argmax else None,
        logprobs=logprobs if want.logprob else None,
        topk_ids=ids if want.top_k else None,
        topk_logprobs=id_logprobs if want.top_k else None,
    )
