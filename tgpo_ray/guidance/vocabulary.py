"""The translation of token ids between a policy's and a teacher's vocabulary, in both directions, by token string."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tgpo_ray.guidance.translator import VocabularySummary

Vocabulary = Mapping[str, int]
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class VocabularyMap:
    """A `TokenTranslator` of two tables, one for each direction. Build it with `from_vocabularies`.

    A policy token that the teacher lacks is spelled in teacher tokens. -1 means "no id". Example: the policy writes
    `</think>` as the pieces `</`, `think`, `>`, and the teacher has one id for it. Then the teacher's argmax `</think>`
    becomes -1 (`unmapped="mask"`) or the policy's `</` (`unmapped="first_piece"`).
    """

    teacher_to_policy: np.ndarray  # (V_T,) int32
    policy_to_teacher: np.ndarray  # (V_P,) int32
    piece_offsets: np.ndarray  # (V_P + 1,) int64: policy id i reads as piece_ids[piece_offsets[i]:piece_offsets[i + 1]]
    piece_ids: np.ndarray  # int32, teacher ids
    is_identity: bool  # both vocabularies are the same, and ids stay as they are
    num_respelled: int = 0  # teacher ids that became a first piece
    teacher_eos_ids: tuple[int, ...] = ()

    @classmethod
    def from_vocabularies(
        cls,
        policy: Vocabulary,
        teacher: Vocabulary,
        *,
        policy_eos_ids: Sequence[int],
        teacher_eos_ids: Sequence[int],
        unmapped: Literal["mask", "first_piece"] = "mask",
        map_eos: bool = True,
        encode_policy: Encode | None = None,
        encode_teacher: Encode | None = None,
    ) -> VocabularyMap:
        """Returns the map between two token -> id dictionaries.

        Args:
            policy_eos_ids, teacher_eos_ids: each end-of-sequence id of the teacher becomes the policy's id of the same
                string if the policy stops on that one, else the policy's first.
            unmapped: the target for a teacher token that the policy lacks: no guidance, or the first of the policy's
                pieces that spell it.
            map_eos: whether ends of sequence become ends of sequence. If False, they are ordinary tokens.
            encode_policy, encode_teacher: functions from a token string of the dictionary to ids of that model. The
                first is needed for `first_piece`, the second if the policy has tokens that the teacher lacks.

        Raises:
            ValueError: `unmapped` is unknown, or an encoder or an end-of-sequence id is missing.
        """
        if unmapped not in ("mask", "first_piece"):
            raise ValueError(f"unmapped must be 'mask' or 'first_piece', got {unmapped!r}")
        if not policy_eos_ids:
            raise ValueError(
                "policy_eos_ids is empty: the teacher's end of sequence needs an id that the policy ends on"
            )
        if unmapped == "first_piece" and encode_policy is None:
            raise ValueError("unmapped 'first_piece' needs encode_policy, to spell the teacher's tokens")
        to_policy, to_teacher = _by_string(teacher, policy), _by_string(policy, teacher)
        if map_eos:
            _map_ends(to_policy, to_teacher, policy_eos_ids, teacher_eos_ids)
        num_missing = int((to_policy < 0).sum())
        if unmapped == "first_piece" and encode_policy is not None:
            _fill_first_pieces(to_policy, teacher, encode_policy)
        num_respelled = num_missing - int((to_policy < 0).sum())
        offsets, pieces = _pieces(policy, to_teacher, encode_teacher)
        is_identity = _is_identity(to_policy) and _is_identity(to_teacher)
        return cls(to_policy, to_teacher, offsets, pieces, is_identity, num_respelled, tuple(teacher_eos_ids))

    def map_teacher_ids(self, ids: np.ndarray) -> np.ndarray:
        """Returns the policy's ids (int32, same shape) of teacher ids; -1 without one, or out of range.

        If both vocabularies are the same, the result is the argument itself and not a copy.
        """
        if self.is_identity and _are_inside(ids, len(self.teacher_to_policy)):
            return ids
        return _look_up(self.teacher_to_policy, ids)

    def policy_ids_for_teacher(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (teacher ids (M,), starts (T,)) that spell policy ids (T,); both int32.

        `starts[t]` is the index of the first piece of policy token t. So the teacher's prediction *for* token t is the
        one that it makes after teacher_ids[:starts[t]]. An id without a string or encoding has no piece.
        """
        if self.is_identity and _are_inside(ids, len(self.policy_to_teacher)) and not (ids < 0).any():
            return ids, np.arange(len(ids), dtype=np.int32)
        ids = np.asarray(ids, dtype=np.int64)
        known = (ids >= 0) & (ids < len(self.policy_to_teacher))
        safe = np.where(known, ids, 0)
        counts = np.where(known, self.piece_offsets[safe + 1] - self.piece_offsets[safe], 0)  # (T,)
        starts = np.cumsum(counts) - counts
        within = np.arange(counts.sum()) - np.repeat(starts, counts)  # (M,) 0, 1, ... inside each token
        return self.piece_ids[np.repeat(self.piece_offsets[safe], counts) + within], starts.astype(np.int32)

    def teacher_targets(
        self, ids: np.ndarray, teacher_ids: np.ndarray, starts: np.ndarray, predicted: np.ndarray
    ) -> np.ndarray:
        """Returns (T,) int32: the policy's id of the teacher's prediction for the first piece of each token, or -1.

        If the teacher predicts every piece of a token, the token is its own target. The first piece as a target would
        teach the policy to spell the token in pieces.
        """
        if self.is_identity and len(predicted) == len(ids):
            return self.map_teacher_ids(predicted)
        counts = np.diff(starts, append=len(teacher_ids))  # (T,)
        targets = np.full(len(starts), -1, np.int32)
        readable = counts > 0
        targets[readable] = self.map_teacher_ids(predicted[starts[readable]])
        differing = np.concatenate([[0], np.cumsum(predicted != teacher_ids)])  # (M + 1,)
        # no difference between the first and the last piece of a token
        agrees = (counts > 1) & (differing[starts + counts] == differing[starts])
        return np.where(agrees, ids, targets).astype(np.int32)

    def has_own_logprob(self, teacher_ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Returns (T,) bool: whether the teacher can read the token."""
        return np.diff(starts, append=len(teacher_ids)) > 0

    def summary(self) -> VocabularySummary:
        """Returns how the two vocabularies fit."""
        num_pieces = np.diff(self.piece_offsets)
        mapped = int((self.teacher_to_policy >= 0).sum())
        return VocabularySummary(
            policy_size=len(self.policy_to_teacher),
            teacher_size=len(self.teacher_to_policy),
            shared=mapped - self.num_respelled,
            respelled=self.num_respelled,
            unmapped=len(self.teacher_to_policy) - mapped,
            read_whole=int((num_pieces == 1).sum()),
            read_in_pieces=int((num_pieces > 1).sum()),
            unreadable=int((num_pieces == 0).sum()),
            end_of_sequence=tuple((eos, int(self.teacher_to_policy[eos])) for eos in self.teacher_eos_ids),
            is_identity=self.is_identity,
        )

    def share_unmapped(self, ids: np.ndarray) -> float:
        """Returns the share of these teacher ids without an id of the policy; negative ids do not count."""
        ids = np.asarray(ids)
        ids = ids[ids >= 0]
        return float((self.map_teacher_ids(ids) < 0).mean()) if len(ids) else 0.0


def _by_string(source: Vocabulary, target: Vocabulary) -> np.ndarray:
    """Returns (V_source,) int32: the target's id of the same string, or -1."""
    table = np.full(max(source.values(), default=-1) + 1, -1, np.int32)
    for token, index in source.items():
        table[index] = target.get(token, -1)
    return table


def _map_ends(
    to_policy: np.ndarray, to_teacher: np.ndarray, policy_eos: Sequence[int], teacher_eos: Sequence[int]
) -> None:
    for eos in teacher_eos:
        if to_policy[eos] not in policy_eos:
            to_policy[eos] = policy_eos[0]
    for eos in policy_eos:
        if to_teacher[eos] < 0 and teacher_eos:
            to_teacher[eos] = teacher_eos[0]


def _fill_first_pieces(table: np.ndarray, vocabulary: Vocabulary, encode: Encode) -> None:
    for token, index in vocabulary.items():
        if table[index] < 0:
            pieces = encode(token)
            table[index] = pieces[0] if len(pieces) else -1


def _pieces(policy: Vocabulary, to_teacher: np.ndarray, encode: Encode | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns (offsets (V_P + 1,), pieces): every policy id spelled in teacher ids, flat."""
    spelled: list[Sequence[int]] = [() if index < 0 else (int(index),) for index in to_teacher]
    for token, index in policy.items():
        if to_teacher[index] >= 0:
            continue
        if encode is None:
            raise ValueError(
                f"policy token {token!r} (id {index}) is not in the teacher's vocabulary: pass encode_teacher"
            )
        spelled[index] = encode(token)
    offsets = np.cumsum([0, *(len(pieces) for pieces in spelled)], dtype=np.int64)
    return offsets, np.array([piece for pieces in spelled for piece in pieces], dtype=np.int32)


def _is_identity(table: np.ndarray) -> bool:
    return bool((table == np.arange(len(table))).all())


def _are_inside(ids: np.ndarray, size: int) -> bool:
    """Returns whether `ids` need no change: an int32 array, as both directions return, of ids that exist."""
    return isinstance(ids, np.ndarray) and ids.dtype == np.int32 and (not ids.size or int(ids.max()) < size)


def _look_up(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    ids = np.asarray(ids)
    known = (ids >= 0) & (ids < len(table))
    return np.where(known, table[np.where(known, ids, 0)], -1).astype(np.int32)
