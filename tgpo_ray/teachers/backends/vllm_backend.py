"""A teacher's model in vLLM, in this process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np

from tgpo_ray.models import (
    Completion,
    Engine,
    EngineSpec,
    Sampling,
    Scores,
    ScoringRequest,
    Want,
    assemble,
    completions,
    cut,
    distinct,
    needs_logits,
    partings,
    prompt_scores,
)

logger = logging.getLogger(__name__)


class VllmBackend:
    """Scores the response rows inside vLLM's worker, one prefill a request, a prompt once for its group.

    Where this vLLM does not let us, which a probe at the start finds out, `prompt_logprobs` are asked for instead: the
    same figures, slower, and neither samples nor hidden states.
    """

    def __init__(self, spec: EngineSpec, *, gpu: bool = False, lean: bool = True) -> None:
        self._engine = Engine(spec, gpu=gpu)
        self._calls = count()
        self.lean = lean and self._probe()

    @property
    def tokenizer(self) -> Any:
        return self._engine.tokenizer

    def score(self, requests: Sequence[ScoringRequest], want: Want) -> list[Scores]:
        return (self._lean if self.lean else self._flat)(requests, want)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, n: int = 1) -> list[list[Completion]]:
        found = self._finished({self._engine.generate(ids, sampling, n=n): i for i, ids in enumerate(prompts)})
        return [completions(found[i]) for i in range(len(prompts))]

    def stop(self) -> None:
        """End what the engine has outside this process."""
        self._engine.stop()

    def _lean(self, requests: Sequence[ScoringRequest], want: Want) -> list[Scores]:
        if not needs_logits(want) and not want.hidden:
            return [Scores() for _ in requests]
        kept, which = distinct(requests)
        call = next(self._calls)
        self._engine.start_scoring(kept, partings(kept), want, self._engine.spec.seed + call)
        try:
            # A cached prefix has no rows here: it may come from this call alone, and from a mate that kept its rows.
            # The last id predicts nothing that is asked for.
            queued = {
                self._engine.read(request.ids[:-1], place, salt=f"{call}-{request.first}"): place
                for place, request in enumerate(kept)
            }
            self._finished(queued)
        finally:
            self._engine.abort_all()
            rows = self._engine.take_scores()
        found = assemble(rows, kept)
        return [cut(found[place], request) for place, request in zip(which, requests, strict=True)]

    def _flat(self, requests: Sequence[ScoringRequest], want: Want) -> list[Scores]:
        if want.sample or want.hidden:
            raise ValueError(
                "prompt_logprobs, all that this vLLM lets us have, give neither 'sample' nor 'hidden': "
                "backend 'transformers' gives both"
            )
        width = max(want.top_k, 1)
        outputs = self._finished(
            {self._engine.score(request.ids, top_k=width): i for i, request in enumerate(requests)}
        )
        return [_scores(outputs[i], request, want, width) for i, request in enumerate(requests)]

    def _finished(self, places: dict[str, int]) -> dict[int, Any]:
        """vLLM's output of each request, by the place given for its id; nothing stays queued after an error."""
        outputs: dict[int, Any] = {}
        try:
            while self._engine.busy:
                for output in self._engine.step():
                    outputs[places[output.request_id]] = output
        finally:
            self._engine.abort_all()
        return outputs

    def _probe(self) -> bool:
        """Whether lean scoring says what `prompt_logprobs` say, on a few requests that share what can be shared."""
        requests, want = probe_requests(self._engine.spec.max_model_len), Want(argmax=True, logprob=True)
        try:
            differs = disagree(self._lean(requests, want), self._flat(requests, want))
            reason = "its figures are others" if differs else ""
        except Exception as error:  # whatever another vLLM has changed
            reason = f"{type(error).__name__}: {error}"
        if reason:
            logger.warning("no lean scoring in this vLLM (%s): teachers use prompt_logprobs, which are slower", reason)
        return not reason


def probe_requests(max_model_len: int) -> list[ScoringRequest]:
    """Three mates over small ids: a response, one that parts at its first token, and one at its last."""
    length = min(100, max_model_len - 1)
    first = 64 if length > 66 else length // 2  # 64: the prompt fills its blocks, and a response's first row is cached
    ids = np.random.default_rng(0).integers(0, 16, length).astype(np.int32)
    early, late = ids.copy(), ids.copy()
    early[first], late[-1] = 15 - ids[first], 15 - ids[-1]
    return [ScoringRequest(each, max(first, 1)) for each in (ids, early, late)]


def disagree(lean: Sequence[Scores], flat: Sequence[Scores]) -> bool:
    """Whether two backends differ by more than arithmetic does, measured by what a shift by one position would do."""
    one, other = (np.concatenate([s.logprobs for s in scores if s.logprobs is not None]) for scores in (lean, flat))
    shifted = np.abs(one[1:] - other[:-1]).mean()
    same = [a.argmax_ids == b.argmax_ids for a, b in zip(lean, flat, strict=True)]
    # equally good ids are common in bfloat16
    return bool(np.abs(one - other).mean() > 0.1 * shifted or np.concatenate(same).mean() < 0.5)


def _scores(output: Any, request: ScoringRequest, want: Want, width: int) -> Scores:
    logprobs, ids, id_logprobs = (values[request.first - 1 :] for values in prompt_scores(output, width))
    return Scores(
        argmax_ids=ids[:, 0] if want.argmax else None,
        logprobs=logprobs if want.logprob else None,
        topk_ids=ids if want.top_k else None,
        topk_logprobs=id_logprobs if want.top_k else None,
    )
