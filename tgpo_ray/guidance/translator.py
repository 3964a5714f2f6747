"""`TokenTranslator`: the translation of ids that a teacher needs between two vocabularies.

`VocabularyMap` (vocabulary.py) translates by token string, for models of one family. `TextAlignment` (alignment.py)
translates by the text, for any two tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

UNREADABLE_LOGPROB = -30.0  # log-prob of a token that the teacher cannot read: finite, a probability of 1e-13


@dataclass(frozen=True)
class VocabularySummary:
    """The fit of two vocabularies, in numbers of ids. A preflight prints it."""

    policy_size: int
    teacher_size: int
    shared: int  # teacher ids with a policy id of their own
    respelled: int  # teacher ids that become the first policy piece of their spelling
    unmapped: int  # teacher ids that give no guidance
    read_whole: int  # policy ids that the teacher reads as one id
    read_in_pieces: int
    unreadable: int  # policy ids that the teacher cannot read
    end_of_sequence: tuple[tuple[int, int], ...]  # (teacher id, policy id or -1) of each teacher end of sequence
    is_identity: bool


class TokenTranslator(Protocol):
    """The translation between the ids of episodes and those of a teacher.

    A teacher reads `policy_ids_for_teacher(prompt)` and `policy_ids_for_teacher(response)`. It predicts each of the M
    ids of the response. `teacher_targets` turns the predictions into targets of the policy's tokens.
    """

    @property
    def is_identity(self) -> bool:
        """Whether the ids are the same on both sides."""
        ...

    def policy_ids_for_teacher(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (teacher ids (M,), starts (T,)) that spell policy ids (T,).

        Policy token t is teacher_ids[starts[t]:starts[t + 1]]. If that is empty, the token has no guidance.
        """
        ...

    def teacher_targets(
        self, ids: np.ndarray, teacher_ids: np.ndarray, starts: np.ndarray, predicted: np.ndarray
    ) -> np.ndarray:
        """Returns the target (T,) of each policy token, in policy ids; -1 where there is no guidance.

        Args:
            ids, teacher_ids, starts: the policy's tokens (T,) and their result of `policy_ids_for_teacher`.
            predicted: (M,) the teacher's token in place of each of `teacher_ids`: its argmax or a sample.
        """
        ...

    def map_teacher_ids(self, ids: np.ndarray) -> np.ndarray:
        """Returns the policy's id for each teacher id by itself (any shape, for top-k targets), or -1."""
        ...

    def has_own_logprob(self, teacher_ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Returns (T,) bool: the sum of the teacher's log-probs of the token's pieces is that of the token's text."""
        ...

    def share_unmapped(self, ids: np.ndarray) -> float:
        """Returns the share of these teacher ids without an id of the policy; negative ids do not count."""
        ...

    def summary(self) -> VocabularySummary:
        """Returns how the two vocabularies fit."""
        ...
