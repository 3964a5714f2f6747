"""The check that a teacher recognises its own text, which tests positions without a second model."""

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
    """The part of a Teacher that generates and scores."""

    @property
    def translator(self) -> EpisodeTranslator: ...

    @property
    def backend(self) -> ScoringBackend: ...


@dataclass(frozen=True)
class ReadBack:
    """Means over the tokens that a teacher wrote and then scored."""

    num_tokens: int
    agreement: float  # share of positions where its argmax is its greedy token
    shifted: float  # the same share with the argmax of the next position
    gap: float  # nats, |log-prob when scored - log-prob when sampled|
    shifted_gap: float


def read_back(teacher: WritingTeacher, groups: Sequence[EpisodeGroup], max_tokens: int) -> ReadBack:
    """Returns how a Teacher scores its own continuations of the groups' prompts, greedy and at temperature 1.

    It runs inside the teacher's actor and in the teacher's ids, so no vocabulary is translated.
    """
    requests = [teacher.translator.request(group, group.episodes[0])[0] for group in groups]
    prompts = [request.ids[: request.first] for request in requests]
    greedy, greedy_scores = _continuations(teacher.backend, prompts, Sampling(max_tokens, temperature=0.0))
    samples, sample_scores = _continuations(
        teacher.backend, prompts, Sampling(max_tokens, temperature=1.0, logprobs=True)
    )
    agrees = [given(scores.argmax_ids) == it.token_ids for scores, it in zip(greedy_scores, greedy, strict=True)]
    shifted = [
        given(scores.argmax_ids)[1:] == it.token_ids[:-1] for scores, it in zip(greedy_scores, greedy, strict=True)
    ]
    pairs = [
        (given(scores.logprobs), given(it.logprobs)) for scores, it in zip(sample_scores, samples, strict=True)
    ]  # (T,) each
    return ReadBack(
        num_tokens=sum(len(it.token_ids) for it in greedy),
        agreement=_mean(agrees),
        shifted=_mean(shifted),
        gap=_mean([np.abs(scored - sampled) for scored, sampled in pairs]),
        shifted_gap=_mean([np.abs(scored[1:] - sampled[:-1]) for scored, sampled in pairs]),
    )


def _continuations(
    backend: ScoringBackend, prompts: Sequence[np.ndarray], sampling: Sampling
) -> tuple[list[Completion], list[Scores]]:
    """Returns a response to each prompt, and its scores."""
    responses = [completions[0] for completions in backend.generate([prompt.tolist() for prompt in prompts], sampling)]
    requests = [
        ScoringRequest(np.concatenate([prompt, response.token_ids]).astype(np.int32), len(prompt))
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return responses, backend.score(requests, Want(argmax=True, logprob=True))


def given(values: np.ndarray | None) -> np.ndarray:
    """Returns the argument, which is an array because the request has asked for it."""
    assert values is not None
    return values


def _mean(pieces: Sequence[np.ndarray]) -> float:
    values = np.concatenate(pieces)
    return float(values.mean()) if len(values) else float("nan")
