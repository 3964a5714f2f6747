"""Between the policy's ids and the teacher's: what the teacher reads, and where its answers belong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tgpo_ray.episode import Episode, EpisodeGroup, Guidance
from tgpo_ray.guidance.vocabulary import VocabularyMap
from tgpo_ray.teacher.scoring import Scores, ScoringRequest
from tgpo_ray.teacher.spec import TeacherSpec

UNREADABLE_LOGPROB = -30.0  # of a token that the teacher has no word for: one in 1e13, and finite


class Reader:
    """Writes a teacher's requests for the episodes of a group, and reads its scores back in the policy's ids."""

    def __init__(self, spec: TeacherSpec, teacher_tokenizer: Any) -> None:
        self._own_template = spec.prompt == "own_template"
        self._tokenizer = teacher_tokenizer
        self._vocabulary = vocabulary_map(teacher_tokenizer, spec)

    def request(self, group: EpisodeGroup, episode: Episode) -> tuple[ScoringRequest, np.ndarray]:
        """What the teacher reads, and where among its scored rows the pieces of each response token begin: (T,)."""
        if self._own_template:
            message = [{"role": "user", "content": group.prompt_text}]
            prompt = self._tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        else:
            prompt, _ = self._vocabulary.policy_ids_for_teacher(episode.prompt_ids)
        response, starts = self._vocabulary.policy_ids_for_teacher(episode.response_ids)
        return ScoringRequest(np.concatenate([np.asarray(prompt, np.int32), response]), len(prompt)), starts

    def guidance(self, scores: Scores, request: ScoringRequest, starts: np.ndarray) -> Guidance:
        """The scores in the policy's ids; position t belongs to response token t.

        A token's prediction is that of its first piece. A token without pieces, which the teacher cannot read, gets no
        guidance.
        """
        readable = np.diff(starts, append=len(request.ids) - request.first) > 0  # (T,)
        rows = starts[readable]

        def placed(values: np.ndarray, missing: float) -> np.ndarray:
            table = np.full((len(starts), *values.shape[1:]), missing, values.dtype)
            table[readable] = values
            return table

        def ids(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else placed(self._vocabulary.map_teacher_ids(values[rows]), -1)

        def logprobs(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else placed(values[rows], UNREADABLE_LOGPROB)

        # a token of several pieces has the sum of their log-probs
        summed = None if scores.logprobs is None else placed(np.add.reduceat(scores.logprobs, rows), UNREADABLE_LOGPROB)
        return Guidance(
            teacher_ids=ids(scores.argmax_ids if scores.sampled_ids is None else scores.sampled_ids),
            teacher_logprobs=summed,
            topk_ids=ids(scores.topk_ids),
            topk_logprobs=logprobs(scores.topk_logprobs),
            hidden=None if scores.hidden is None else placed(scores.hidden[rows], 0.0),
        )


def is_aligned(answers: Sequence[Guidance], group: EpisodeGroup) -> bool:
    """Whether there is one answer an episode, one position a response token, and finite numbers only."""
    if len(answers) != len(group):
        return False
    arrays = [
        (values, len(episode.response_ids))
        for guidance, episode in zip(answers, group.episodes, strict=True)
        for values in guidance.arrays()
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
