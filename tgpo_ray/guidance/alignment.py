"""Guidance between any two tokenizers, through the bytes of the text and the boundaries that both share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tgpo_ray.guidance.token_bytes import TokenBytes
from tgpo_ray.guidance.translator import VocabularySummary

NOT_LOOKED_UP = -2


class TextAlignment:
    """A `TokenTranslator` through the text. Special tokens match by string, and an end of sequence matches another.

    The policy wrote `" th" "ink" "ing"`, the teacher reads the same text as `" think" "ing"`:

        offset    0     3     6
        policy    | th  |ink  |ing        offsets 0 and 6 are boundaries of both
        teacher   | think     |ing        offset 3 is not: "ink" has no guidance

    Suppose that the teacher predicts `" thought"` at 0. The policy spells that `" th" "ought"`, so " th" is the target.

    A policy token may hold several teacher tokens. If the teacher agrees with the first of them, its text goes on. For
    example, the policy writes `" thinking"`, and the teacher agrees with `" think"` and predicts `"er"` in place of
    `"ing"`. The target is then the policy's first piece of `" thinker"`. If the teacher agrees with all of a policy
    token, that token is the target.
    """

    is_identity = False

    def __init__(
        self,
        policy: TokenBytes,
        teacher: TokenBytes,
        *,
        policy_eos_ids: Sequence[int],
        teacher_eos_ids: Sequence[int],
        map_eos: bool = True,
    ) -> None:
        """See `VocabularyMap.from_vocabularies` for the arguments.

        Raises:
            ValueError: the policy has no end of sequence, or a tokenizer lacks one of its own.
        """
        if not policy_eos_ids:
            raise ValueError(
                "policy_eos_ids is empty: the teacher's end of sequence needs an id that the policy ends on"
            )
        for whose, tokens, ends in (("policy", policy, policy_eos_ids), ("teacher", teacher, teacher_eos_ids)):
            outside = [eos for eos in ends if not 0 <= eos < len(tokens.values)]
            if outside:
                raise ValueError(
                    f"{whose}_eos_ids {outside} are outside [0, {len(tokens.values)}): give ids of the {whose}'s "
                    "own tokenizer"
                )
        self.policy, self.teacher = policy, teacher
        self.teacher_eos_ids = tuple(teacher_eos_ids)
        self._to_policy = _special_map(teacher, policy)
        self._to_teacher = _special_map(policy, teacher)
        if map_eos:
            for eos in teacher_eos_ids:
                if self._to_policy.get(eos) not in policy_eos_ids:
                    self._to_policy[eos] = policy_eos_ids[0]
            for eos in policy_eos_ids:
                if eos not in self._to_teacher and teacher_eos_ids:
                    self._to_teacher[eos] = teacher_eos_ids[0]
        self._apart = {*policy.special, *self._to_teacher}  # policy ids that are no part of the text around them
        self._table = np.full(len(teacher.values), NOT_LOOKED_UP, np.int32)  # filled as teacher ids come up

    @classmethod
    def from_tokenizers(
        cls,
        policy: Any,
        teacher: Any,
        *,
        policy_eos_ids: Sequence[int],
        teacher_eos_ids: Sequence[int],
        map_eos: bool = True,
    ) -> TextAlignment:
        """Returns the alignment of two Hugging Face tokenizers; see `TokenBytes.from_tokenizer`."""
        return cls(
            TokenBytes.from_tokenizer(policy),
            TokenBytes.from_tokenizer(teacher),
            policy_eos_ids=policy_eos_ids,
            teacher_eos_ids=teacher_eos_ids,
            map_eos=map_eos,
        )

    def policy_ids_for_teacher(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (teacher ids (M,), starts (T,)), both int32: the same text in the teacher's tokens.

        `starts[t]` is the index of the teacher token that begins where policy token t begins. If there is none,
        `starts[t]` is `starts[t + 1]`. Then the policy token has no teacher tokens, and no guidance.
        """
        ids = np.asarray(ids, dtype=np.int64)
        pieces, starts, place = [np.zeros(0, np.int32)], np.full(len(ids), -1, np.int64), 0
        for first, stop in self._segments(ids):
            spelled, shared = self._segment(ids[first:stop])
            starts[first:stop] = np.where(shared >= 0, shared + place, -1)
            pieces.append(spelled)
            place += len(spelled)
        # from the end: a token without a shared boundary takes the start of the next token with one, in any segment
        starts = np.where(starts < 0, place, starts)
        starts = np.minimum.accumulate(starts[::-1])[::-1]
        return np.concatenate(pieces), starts.astype(np.int32)

    def teacher_targets(
        self, ids: np.ndarray, teacher_ids: np.ndarray, starts: np.ndarray, predicted: np.ndarray
    ) -> np.ndarray:
        """Returns (T,) int32: the policy's first piece of the teacher's text from each shared boundary on, or -1."""
        ids, starts, num_pieces = np.asarray(ids, np.int64), np.asarray(starts, np.int64), len(teacher_ids)
        stops = np.append(starts[1:], num_pieces)[: len(ids)]  # (T,) end of each token's teacher tokens
        readable = np.flatnonzero(stops > starts)  # (R,)
        start, stop = starts[readable], stops[readable]
        differs = np.where(predicted != teacher_ids, np.arange(num_pieces), num_pieces)  # (M,)
        until = np.minimum.accumulate(differs[::-1])[::-1][start]  # (R,) first index >= start with another prediction
        offsets = np.concatenate([[0], np.cumsum(_lengths(self.teacher, teacher_ids))])  # (M + 1,) in bytes
        length = _lengths(self.policy, ids[readable])
        # (R,) the agreed pieces reach the end of the policy token, in tokens or in bytes
        agrees = (until >= stop) | ((length > 0) & (length <= offsets[until] - offsets[start]))
        policy_ids = np.where(agrees, ids[readable], self.map_teacher_ids(predicted[start]))
        for i in np.flatnonzero(~agrees & (until > start)):
            agreed = self.teacher.join(teacher_ids[start[i] : until[i]])
            policy_ids[i] = self.policy.first_piece(agreed + self._text_of(int(predicted[until[i]])))
        targets = np.full(len(ids), -1, np.int32)
        targets[readable] = policy_ids
        return targets

    def map_teacher_ids(self, ids: np.ndarray) -> np.ndarray:
        """Returns the policy's first piece (int32, same shape) of the text of each teacher token, or -1.

        Several teacher tokens can share a first piece. `merge_duplicate_targets` adds up their probabilities.
        """
        ids = np.asarray(ids)
        safe = np.where((ids >= 0) & (ids < len(self._table)), ids, 0)
        for index in np.unique(safe[self._table[safe] == NOT_LOOKED_UP]):
            self._policy_id(int(index))
        return np.where(safe == ids, self._table[safe], -1).astype(np.int32)

    def has_own_logprob(self, teacher_ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Returns (T,) bool: both boundaries of the token are shared, so the teacher's pieces spell just the token."""
        readable = np.diff(starts, append=len(teacher_ids)) > 0
        return readable & np.append(readable[1:], True)

    def share_unmapped(self, ids: np.ndarray) -> float:
        """Returns the share of these teacher ids for which the policy has no first piece; negative ids do not count."""
        ids = np.asarray(ids)
        ids = ids[ids >= 0]
        return float((self.map_teacher_ids(ids) < 0).mean()) if len(ids) else 0.0

    def coverage(self, ids: np.ndarray) -> float:
        """Returns the share of these policy tokens that begin at a shared boundary. Guidance reaches no others."""
        teacher_ids, starts = self.policy_ids_for_teacher(ids)
        return float((np.diff(starts, append=len(teacher_ids)) > 0).mean()) if len(starts) else 0.0

    def summary(self) -> VocabularySummary:
        """Returns how the two vocabularies fit. A teacher token is shared if the policy has one of the same bytes."""
        texts = [value for value in self.teacher.values if value]
        shared = sum(value in self.policy.ids for value in texts)
        readable = [value for i, value in enumerate(self.policy.values) if value and i not in self._to_teacher]
        whole = sum(value in self.teacher.ids for value in readable) + len(self._to_teacher)
        in_pieces = sum(1 for i in self.policy.special if i not in self._to_teacher)
        return VocabularySummary(
            policy_size=len(self.policy.values),
            teacher_size=len(self.teacher.values),
            shared=shared + len(self._to_policy),
            respelled=len(texts) - shared,
            unmapped=len(self.teacher.values) - len(texts) - len(self._to_policy),
            read_whole=whole,
            read_in_pieces=len(readable) + len(self._to_teacher) - whole + in_pieces,
            unreadable=len(self.policy.values) - len(readable) - len(self._to_teacher) - in_pieces,
            end_of_sequence=tuple((eos, self._policy_id(eos)) for eos in self.teacher_eos_ids),
            is_identity=False,
        )

    def _segments(self, ids: np.ndarray) -> Iterator[tuple[int, int]]:
        """Yields (first, stop) of stretches of text, and of each special token by itself."""
        cuts = [t for t, index in enumerate(ids.tolist()) if index in self._apart]
        first = 0
        for cut in cuts:
            if cut > first:
                yield first, cut
            yield cut, cut + 1
            first = cut + 1
        if first < len(ids):
            yield first, len(ids)

    def _segment(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (teacher ids (m,), for each policy token (n,) the index of the id that begins with it, or -1)."""
        if len(ids) == 1 and int(ids[0]) in self._apart:
            spelled = self._spell_special(int(ids[0]))
            return spelled, np.array([0 if len(spelled) else -1])
        lengths = _lengths(self.policy, ids)
        offsets = np.cumsum(lengths) - lengths
        spelled, starts = self.teacher.spell(self.policy.join(ids[lengths > 0].tolist()))
        known = np.flatnonzero(starts >= 0)
        if not len(known):
            return spelled, np.full(len(ids), -1)
        nearest = np.minimum(np.searchsorted(starts[known], offsets), len(known) - 1)
        shared = (starts[known][nearest] == offsets) & (lengths > 0)
        return spelled, np.where(shared, known[nearest], -1)

    def _spell_special(self, index: int) -> np.ndarray:
        if index in self._to_teacher:
            return np.array([self._to_teacher[index]], np.int32)
        return self.teacher.spell(self.policy.special[index].encode())[0]

    def _text_of(self, index: int) -> bytes:
        """Returns the bytes of a teacher id; none for an end of sequence or another special token."""
        return b"" if index in self._to_policy else _value(self.teacher, index)

    def _policy_id(self, index: int) -> int:
        """Returns the policy's id of one teacher id, from the table, which it fills."""
        if not 0 <= index < len(self._table):
            return -1
        if self._table[index] == NOT_LOOKED_UP:
            value = self.teacher.values[index]
            known = self._to_policy.get(index)
            self._table[index] = known if known is not None else self.policy.first_piece(value) if value else -1
        return int(self._table[index])


def _special_map(source: TokenBytes, target: TokenBytes) -> dict[int, int]:
    ids = {token: index for index, token in target.special.items()}
    return {index: ids[token] for index, token in source.special.items() if token in ids}


def _value(tokens: TokenBytes, index: int) -> bytes:
    return tokens.values[index] if 0 <= index < len(tokens.values) else b""


def _lengths(tokens: TokenBytes, ids: np.ndarray) -> np.ndarray:
    """Returns (n,) int64: bytes of each token; 0 for special tokens and for ids that do not exist."""
    inside = (ids >= 0) & (ids < len(tokens.values))
    return np.where(inside, tokens.lengths[np.where(inside, ids, 0)], 0)
