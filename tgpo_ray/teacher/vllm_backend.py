"""A teacher's model in vLLM, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgpo_ray.engine import Completion, Engine, EngineSpec, Sampling, completions, prompt_scores
from tgpo_ray.teacher.scoring import Scores, ScoringRequest, Want


class VllmBackend:
    """Scores with vLLM's `prompt_logprobs`, one prefill a request."""

    def __init__(self, spec: EngineSpec, *, gpu: bool = False) -> None:
        self._engine = Engine(spec, gpu=gpu)

    @property
    def tokenizer(self) -> Any:
        return self._engine.tokenizer

    def score(self, requests: Sequence[ScoringRequest], want: Want) -> list[Scores]:
        if want.sample or want.hidden:
            raise ValueError("prompt_logprobs of vLLM give neither 'sample' nor 'hidden'")
        width = max(want.top_k, 1)
        outputs = self._finished(
            {self._engine.score(request.ids, top_k=width): i for i, request in enumerate(requests)}
        )
        return [_scores(outputs[i], request, want, width) for i, request in enumerate(requests)]

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, n: int = 1) -> list[list[Completion]]:
        found = self._finished({self._engine.generate(ids, sampling, n=n): i for i, ids in enumerate(prompts)})
        return [completions(found[i]) for i in range(len(prompts))]

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

    def stop(self) -> None:
        """Nothing to close: the engine lives in this process and ends with it."""


def _scores(output: Any, request: ScoringRequest, want: Want, width: int) -> Scores:
    logprobs, ids, id_logprobs = (values[request.first - 1 :] for values in prompt_scores(output, width))
    return Scores(
        argmax_ids=ids[:, 0] if want.argmax else None,
        logprobs=logprobs if want.logprob else None,
        topk_ids=ids if want.top_k else None,
        topk_logprobs=id_logprobs if want.top_k else None,
    )
