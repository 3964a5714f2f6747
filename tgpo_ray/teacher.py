"""Teacher: one actor that reads what the policy wrote and says, at every position, what it would have written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tgpo_ray.engine import Completion, Engine, EngineSpec, Sampling, completions, prompt_scores
from tgpo_ray.episode import Episode, EpisodeGroup, Guidance
from tgpo_ray.guidance.vocabulary import VocabularyMap

MAX_TOP_K = 128
UNREADABLE_LOGPROB = -30.0  # of a token that the teacher has no word for: one in 1e13, and finite


@dataclass(frozen=True)
class TeacherSpec:
    """What one teacher is made of; `policy_tokenizer` is the folder whose ids the episodes carry."""

    engine: EngineSpec
    policy_tokenizer: str
    prompt: Literal["policy", "own_template"] = "policy"
    unmapped: Literal["mask", "first_piece"] = "mask"
    gpu: bool = False


@dataclass(frozen=True)
class Want:
    """What an algorithm asks of a scorer, parsed from names such as `argmax`, `logprob` or `topk:20`."""

    argmax: bool = False
    logprob: bool = False
    top_k: int = 0

    @classmethod
    def parse(cls, names: Collection[str]) -> Want:
        """Read the names.

        Raises:
            ValueError: an unknown name, or a top-k outside 1..128.
        """
        top_k = 0
        for name in names:
            kind, _, number = name.partition(":")
            if kind == "topk" and number.isdigit() and 1 <= int(number) <= MAX_TOP_K:
                top_k = int(number)
            elif name not in ("argmax", "logprob"):
                raise ValueError(
                    f"a teacher on vLLM offers 'argmax', 'logprob' and 'topk:k' with k in 1..{MAX_TOP_K}, got {name!r}"
                )
        return cls("argmax" in names, "logprob" in names, top_k)


class Teacher:
    """Scores episodes and writes traces. Wrapped in a Ray actor by TeacherGroup; usable without Ray as it is."""

    def __init__(self, spec: TeacherSpec) -> None:
        self._spec = spec
        self._engine = Engine(spec.engine, gpu=spec.gpu)
        self._vocabulary = vocabulary_map(self._engine.tokenizer, spec)

    def annotate(self, group: EpisodeGroup, want: Collection[str]) -> list[Guidance]:
        """The teacher's word at every response position of every episode, in the policy's ids.

        The teacher reads the policy's own response, teacher-forced: one prefill an episode.

        Args:
            group: the episodes, in the policy's ids.
            want: any of `argmax`, `logprob`, `topk:k`.

        Returns: one Guidance an episode; position t belongs to response token t.
        """
        parsed = Want.parse(want)
        width = max(parsed.top_k, 1)
        readings = [self._reading(group, episode) for episode in group.episodes]
        try:
            requests = {self._engine.score(ids, top_k=width): i for i, (ids, _) in enumerate(readings)}
            outputs: dict[int, Any] = {}
            while self._engine.busy:
                for output in self._engine.step():
                    outputs[requests[output.request_id]] = output
        finally:
            self._engine.abort_all()
        return [self._guidance(outputs[i], starts, parsed, width) for i, (_, starts) in enumerate(readings)]

    def annotate_checked(self, group: EpisodeGroup, want: Collection[str]) -> tuple[list[Guidance], bool]:
        """`annotate`, and whether its answers fit the group: the driver reads that alone."""
        answers = self.annotate(group, want)
        return answers, is_aligned(answers, group)

    def _reading(self, group: EpisodeGroup, episode: Episode) -> tuple[np.ndarray, np.ndarray]:
        """What the teacher reads, and where in it the pieces of each response token begin: (M,) ids, (T,) starts."""
        if self._spec.prompt == "own_template":
            message = [{"role": "user", "content": group.prompt_text}]
            prompt = self._engine.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        else:
            prompt, _ = self._vocabulary.policy_ids_for_teacher(episode.prompt_ids)
        response, starts = self._vocabulary.policy_ids_for_teacher(episode.response_ids)
        return np.concatenate([np.asarray(prompt, np.int32), response]), starts + len(prompt)

    def _guidance(self, output: Any, starts: np.ndarray, want: Want, width: int) -> Guidance:
        logprobs, ids, id_logprobs = prompt_scores(output, width)
        # Row j predicts piece j + 1: the row that predicts token t is that of its first piece. A token without pieces,
        # which the teacher cannot read, gets no guidance.
        readable = np.diff(starts, append=len(logprobs) + 1) > 0  # (T,)
        rows = starts[readable] - 1

        def placed(values: np.ndarray, missing: float) -> np.ndarray:
            table = np.full((len(starts), *values.shape[1:]), missing, values.dtype)
            table[readable] = values
            return table

        topk_ids = placed(self._vocabulary.map_teacher_ids(ids[rows]), -1)
        return Guidance(
            teacher_ids=topk_ids[:, 0] if want.argmax else None,
            # a token of several pieces has the sum of their log-probs
            teacher_logprobs=placed(np.add.reduceat(logprobs, rows), UNREADABLE_LOGPROB) if want.logprob else None,
            topk_ids=topk_ids if want.top_k else None,
            topk_logprobs=placed(id_logprobs[rows], UNREADABLE_LOGPROB) if want.top_k else None,
        )

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, n: int = 1) -> list[list[Completion]]:
        """Traces: n responses to each prompt, in the teacher's own ids."""
        requests = {self._engine.generate(ids, sampling, n=n): i for i, ids in enumerate(prompts)}
        found: dict[int, list[Completion]] = {}
        while self._engine.busy:
            for output in self._engine.step():
                found[requests[output.request_id]] = completions(output)
        return [found[i] for i in range(len(prompts))]

    def stop(self) -> None:
        """Nothing to close: the engine lives in this process and ends with it."""


def is_aligned(answers: Sequence[Guidance], group: EpisodeGroup) -> bool:
    """Whether there is one answer an episode, one position a response token, and finite numbers only."""
    if len(answers) != len(group):
        return False
    arrays = [
        (values, len(episode.response_ids))
        for guidance, episode in zip(answers, group.episodes, strict=True)
        for values in (guidance.teacher_ids, guidance.teacher_logprobs, guidance.topk_ids, guidance.topk_logprobs)
        if values is not None
    ]
    return all(len(values) == length and bool(np.isfinite(values).all()) for values, length in arrays)


def vocabulary_map(teacher_tokenizer: Any, spec: TeacherSpec) -> VocabularyMap:
    """The map between the ids that the episodes carry and the teacher's."""
    from transformers import AutoTokenizer, GenerationConfig

    def eos_ids(path: str, tokenizer: Any) -> list[int]:
        try:
            ids = GenerationConfig.from_pretrained(path).eos_token_id
        except OSError:  # a folder without generation_config.json
            ids = None
        ids = tokenizer.eos_token_id if ids is None else ids
        return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)

    policy = AutoTokenizer.from_pretrained(spec.policy_tokenizer, trust_remote_code=spec.engine.trust_remote_code)
    return VocabularyMap.from_vocabularies(
        policy.get_vocab(),
        teacher_tokenizer.get_vocab(),
        policy_eos_ids=eos_ids(spec.policy_tokenizer, policy),
        teacher_eos_ids=eos_ids(spec.engine.model, teacher_tokenizer),
        unmapped=spec.unmapped,
        encode_policy=lambda token: _encode(policy, token),
        encode_teacher=lambda token: _encode(teacher_tokenizer, token),
    )


def _encode(tokenizer: Any, token: str) -> list[int]:
    """The ids that spell a token string as it stands in another vocabulary (byte-level BPE has a sign for a space)."""
    return tokenizer.encode(tokenizer.convert_tokens_to_string([token]), add_special_tokens=False)
