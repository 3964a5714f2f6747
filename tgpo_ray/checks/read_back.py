"""Whether a teacher recognises its own writing: the sharpest test of positions that needs no second model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tgpo_ray.episode import EpisodeGroup
from tgpo_ray.models import Completion, Sampling, Scores, ScoringBackend, ScoringRequest, Want

if TYPE_CHECKING:
    from tgpo_ray.teachers import EpisodeTranslator


class WritingTeacher(Protocol):
    """The part of a Teacher that writes and reads."""

    @property
    def translator(self) -> EpisodeTranslator: ...

    @property
    def backend(self) -> ScoringBackend: ...


@dataclass(frozen=True)
class ReadBack:
    """Means over the tokens that a teacher wrote and then scored."""

    num_tokens: int
    agreement: float  # its argmax is what it wrote greedily
    shifted: float  # the same one position on
    gap: float  # nats, |log-prob when scored - when it was sampled|
    shifted_gap: float


def read_back(teacher: WritingTeacher, groups: Sequence[EpisodeGroup], max_tokens: int) -> ReadBack:
    """Have a Teacher continue the groups' prompts, greedily and at temperature 1, and score what it wrote.

    Runs inside the teacher's actor, in its own ids: no vocabulary takes part.
    """
    requests = [teacher.translator.request(group, group.episodes[0])[0] for group in groups]
    prompts = [request.ids[: request.first] for request in requests]
    greedy, best = _written(teacher.backend, prompts, Sampling(max_tokens, temperature=0.0))
    drawn, sampled = _written(teacher.backend, prompts, Sampling(max_tokens, temperature=1.0, logprobs=True))
    agrees = [_given(b.argmax_ids) == g.token_ids for b, g in zip(best, greedy, strict=True)]
    shifted = [_given(b.argmax_ids)[1:] == g.token_ids[:-1] for b, g in zip(best, greedy, strict=True)]
    pairs = [(_given(s.logprobs), _given(d.logprobs)) for s, d in zip(sampled, drawn, strict=True)]
    return ReadBack(
        num_tokens=sum(len(it.token_ids) for it in greedy),
        agreement=_mean(agrees),
        shifted=_mean(shifted),
        gap=_mean([np.abs(scored - drew) for scored, drew in pairs]),
        shifted_gap=_mean([np.abs(scored[1:] - drew[:-1]) for scored, drew in pairs]),
    )


def _written(
    backend: ScoringBackend, prompts: Sequence[np.ndarray], sampling: Sampling
) -> tuple[list[Completion], list[Scores]]:
    """A response to each prompt, and its scores."""
    responses = [completions[0] for completions in backend.generate([prompt.tolist() for prompt in prompts], sampling)]
    requests = [
        ScoringRequest(np.concatenate([prompt, response.token_ids]).astype(np.int32), len(prompt))
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return responses, backend.score(requests, Want(argmax=True, logprob=True))


def _given(values: np.ndarray | None) -> np.ndarray:
    assert values is not None  # asked for above
    return values


def _mean(pieces: Sequence[np.ndarray]) -> float:
    values = np.concatenate(pieces)
    return float(values.mean()) if len(values) else float("nan")
