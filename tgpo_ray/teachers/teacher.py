"""Teacher, the actor that scores the policy's responses with any backend."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from tgpo_ray.episode import EpisodeGroup, Guidance
from tgpo_ray.models import Completion, Sampling, ScoringBackend, Want
from tgpo_ray.teachers.answers import AnswerCheck, flaw_of
from tgpo_ray.teachers.backends.caching import CachingBackend
from tgpo_ray.teachers.episode_translator import EpisodeTranslator
from tgpo_ray.teachers.spec import TeacherSpec


class Teacher:
    """A scorer of episodes and writer of traces. TeacherGroup wraps it in a Ray actor, and it works without Ray too."""

    def __init__(self, spec: TeacherSpec) -> None:
        self.backend = CachingBackend(backend_of(spec), spec.cache_memory)
        self.translator = EpisodeTranslator(spec, self.backend.tokenizer)

    def annotate(self, group: EpisodeGroup, want: Collection[str]) -> list[Guidance]:
        """Returns one Guidance an episode, in the policy's ids. Position t belongs to response token t.

        The teacher reads the policy's own response, teacher-forced, in one prefill an episode.

        Args:
            group: the episodes, in the policy's ids.
            want: any of `argmax` or `sample`, `logprob`, `topk:k`, `hidden`.
        """
        questions = [self.translator.request(group, episode) for episode in group.episodes]
        answers = self.backend.score([request for request, _ in questions], Want.parse(want))
        return [
            self.translator.guidance(scores, request, starts, episode.response_ids)
            for scores, (request, starts), episode in zip(answers, questions, group.episodes, strict=True)
        ]

    def annotate_checked(self, group: EpisodeGroup, want: Collection[str]) -> tuple[list[Guidance], AnswerCheck]:
        """Returns the answers of `annotate`, and a check of them. The driver fetches only the check."""
        start = time.monotonic()
        hits = self.backend.num_hits  # the counter never resets, so this call's hits are a difference
        answers = self.annotate(group, want)
        flaw = flaw_of(answers, group, self.translator.num_policy_ids)
        return answers, AnswerCheck(flaw, len(group), self.backend.num_hits - hits, time.monotonic() - start)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, n: int = 1) -> list[list[Completion]]:
        """Returns n responses to each prompt, in the teacher's own ids."""
        return self.backend.generate(prompts, sampling, n=n)

    def stop(self) -> None:
        """Close the model's backend."""
        self.backend.stop()


def backend_of(spec: TeacherSpec) -> ScoringBackend:
    """Returns the started backend of a teacher. Only the libraries of this backend are imported."""
    if spec.backend == "transformers":
        from tgpo_ray.teachers.backends.transformers_backend import TransformersBackend

        return TransformersBackend(spec.engine, gpu=spec.gpu, token_budget=spec.token_budget)
    if spec.backend == "remote":
        from tgpo_ray.teachers.backends.remote_backend import RemoteBackend

        return RemoteBackend(spec.engine, spec.server)
    from tgpo_ray.teachers.backends.vllm_backend import VllmBackend  # imports no vllm before its engine starts

    return VllmBackend(spec.engine, gpu=spec.gpu)
