"""The translation between the policy's ids and the teacher's, for requests and for answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from tgpo_ray.episode import Episode, EpisodeGroup, Guidance
from tgpo_ray.guidance import (
    UNREADABLE_LOGPROB,
    TextAlignment,
    TokenTranslator,
    VocabularyMap,
    merge_duplicate_targets,
)
from tgpo_ray.models import Scores, ScoringRequest, end_of_sequence_ids, load_tokenizer
from tgpo_ray.teachers.spec import TeacherSpec

if TYPE_CHECKING:
    from tgpo_ray.models import VocabularyTokenizer

MIN_SHARED = 0.9  # of the smaller vocabulary; below it `vocabulary: auto` aligns by text


class EpisodeTranslator:
    """A translator of episodes into a teacher's requests, and of its scores into guidance in the policy's ids."""

    def __init__(self, spec: TeacherSpec, teacher_tokenizer: VocabularyTokenizer) -> None:
        self._own_template = spec.prompt == "own_template"
        self._tokenizer = teacher_tokenizer
        self.vocabulary = vocabulary_map(teacher_tokenizer, spec)
        self.num_policy_ids = self.vocabulary.summary().policy_size  # all ids of the policy are below it

    def request(self, group: EpisodeGroup, episode: Episode) -> tuple[ScoringRequest, np.ndarray]:
        """Returns the teacher's request, and for each response token the scored row of its first piece, (T,)."""
        if self._own_template:
            message = [{"role": "user", "content": group.prompt_text}]
            prompt = self._tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        else:
            prompt, _ = self.vocabulary.policy_ids_for_teacher(episode.prompt_ids)
        response, starts = self.vocabulary.policy_ids_for_teacher(episode.response_ids)
        return ScoringRequest(np.concatenate([np.asarray(prompt, np.int32), response]), len(prompt)), starts

    def guidance(
        self, scores: Scores, request: ScoringRequest, starts: np.ndarray, response_ids: np.ndarray
    ) -> Guidance:
        """Returns the scores in the policy's ids. Position t belongs to response token t.

        A token's prediction is that of its first piece. A token without pieces is unreadable to the teacher and gets no
        guidance.
        """
        read = request.ids[request.first :]  # (M,)
        readable = np.diff(starts, append=len(read)) > 0  # (T,)
        rows = starts[readable]  # (U,), the first rows of the U readable tokens

        def placed(values: np.ndarray, missing: float) -> np.ndarray:
            table = np.full((len(starts), *values.shape[1:]), missing, values.dtype)  # (T, ...) from (U, ...)
            table[readable] = values
            return table

        predicted = scores.argmax_ids if scores.sampled_ids is None else scores.sampled_ids
        topk_ids, topk_logprobs = self._best(scores, rows)
        return Guidance(
            teacher_ids=None
            if predicted is None
            else self.vocabulary.teacher_targets(response_ids, read, starts, predicted),
            teacher_logprobs=None
            if scores.logprobs is None
            else self._sampled(placed(np.add.reduceat(scores.logprobs, rows), UNREADABLE_LOGPROB), read, starts),
            topk_ids=None if topk_ids is None else placed(topk_ids, -1),
            topk_logprobs=None if topk_logprobs is None else placed(topk_logprobs, UNREADABLE_LOGPROB),
            hidden=None if scores.hidden is None else placed(scores.hidden[rows], 0.0),
        )

    def _sampled(self, logprobs: np.ndarray, read: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Returns (T,) log-probs of the tokens, where each is the sum over the token's pieces.

        It is UNREADABLE_LOGPROB where the sum is not the log-prob of the token.
        """
        return np.where(self.vocabulary.has_own_logprob(read, starts), logprobs, np.float32(UNREADABLE_LOGPROB))

    def _best(self, scores: Scores, rows: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Returns the teacher's best tokens in the policy's ids and their log-probs, both (U, k).

        Two tokens of the teacher may map to one of the policy's. Each id then occurs once.
        """
        if scores.topk_ids is None or scores.topk_logprobs is None:
            return None, None
        mapped = torch.from_numpy(self.vocabulary.map_teacher_ids(scores.topk_ids[rows]))  # (U, k)
        ids, logprobs = merge_duplicate_targets(mapped, torch.from_numpy(scores.topk_logprobs[rows]))
        return ids.numpy().astype(np.int32), np.where(
            ids.numpy() >= 0, logprobs.numpy(), np.float32(UNREADABLE_LOGPROB)
        )


def vocabulary_map(teacher_tokenizer: VocabularyTokenizer, spec: TeacherSpec) -> TokenTranslator:
    """Returns the translator between the episodes' ids and the teacher's, by token string or by text."""
    policy = load_tokenizer(spec.policy_tokenizer, trust_remote_code=spec.engine.trust_remote_code)
    ends = {
        "policy_eos_ids": end_of_sequence_ids(spec.policy_tokenizer, policy),
        "teacher_eos_ids": end_of_sequence_ids(spec.engine.model, teacher_tokenizer),
        "map_eos": spec.map_end_of_sequence,
    }
    policy_vocabulary, teacher_vocabulary = policy.get_vocab(), teacher_tokenizer.get_vocab()
    shared = len(policy_vocabulary.keys() & teacher_vocabulary.keys())
    enough = shared >= MIN_SHARED * min(len(policy_vocabulary), len(teacher_vocabulary))
    if spec.vocabulary == "text" or (spec.vocabulary == "auto" and not enough):
        return TextAlignment.from_tokenizers(policy, teacher_tokenizer, **ends)
    return VocabularyMap.from_vocabularies(
        policy_vocabulary,
        teacher_vocabulary,
        unmapped=spec.unmapped,
        encode_policy=lambda token: _encode(policy, token),
        encode_teacher=lambda token: _encode(teacher_tokenizer, token),
        **ends,
    )


def _encode(tokenizer: VocabularyTokenizer, token: str) -> list[int]:
    """Returns the ids that spell a token string of this vocabulary. Byte-level BPE has a sign for a space."""
    return tokenizer.encode(tokenizer.convert_tokens_to_string([token]), add_special_tokens=False)
