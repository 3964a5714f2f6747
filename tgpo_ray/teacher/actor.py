"""Teacher: one actor that scores what the policy wrote, whatever model stands behind it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tgpo_ray.engine import Completion, Sampling
from tgpo_ray.episode import EpisodeGroup, Guidance
from tgpo_ray.teacher.reading import Reader, is_aligned
from tgpo_ray.teacher.scoring import ScoringBackend, Want
from tgpo_ray.teacher.spec import TeacherSpec


class Teacher:
    """Scores episodes and writes traces. Wrapped in a Ray actor by TeacherGroup; usable without Ray as it is."""

    def __init__(self, spec: TeacherSpec) -> None:
        self._backend = backend_of(spec)
        self._reader = Reader(spec, self._backend.tokenizer)

    def annotate(self, group: EpisodeGroup, want: Collection[str]) -> list[Guidance]:
        """The teacher's word at every response position of every episode, in the policy's ids.

        The teacher reads the policy's own response, teacher-forced: one prefill an episode.

        Args:
            group: the episodes, in the policy's ids.
            want: any of `argmax` or `sample`, `logprob`, `topk:k`, `hidden`.

        Returns: one Guidance an episode; position t belongs to response token t.
        """
        readings = [self._reader.request(group, episode) for episode in group.episodes]
        answers = self._backend.score([request for request, _ in readings], Want.parse(want))
        return [
            self._reader.guidance(scores, request, starts)
            for scores, (request, starts) in zip(answers, readings, strict=True)
        ]

    def annotate_checked(self, group: EpisodeGroup, want: Collection[str]) -> tuple[list[Guidance], bool]:
        """`annotate`, and whether its answers fit the group: the driver reads that alone."""
        answers = self.annotate(group, want)
        return answers, is_aligned(answers, group)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, n: int = 1) -> list[list[Completion]]:
        """Traces: n responses to each prompt, in the teacher's own ids."""
        return self._backend.generate(prompts, sampling, n=n)

    def stop(self) -> None:
        """Close the model's backend."""
        self._backend.stop()


def backend_of(spec: TeacherSpec) -> ScoringBackend:
    """The model behind a teacher, started."""
    from tgpo_ray.teacher.vllm_backend import VllmBackend

    return VllmBackend(spec.engine, gpu=spec.gpu)
