"""What a teacher asks of the two vocabularies: `TokenTranslator`.

`VocabularyMap` (vocabulary.py) does it by token string, for models of one family; `TextAlignment` (alignment.py) by the
text itself, for any two tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

UNREADABLE_LOGPROB = -30.0  # stands for the log-prob of a token that the teacher has no word for: finite, one in 1e13


@dataclass(frozen=True)
class VocabularySummary:
    """How two vocabularies fit, in numbers of ids; a preflight prints it."""

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
    """Between the ids that episodes carry and those of a teacher.

    A teacher reads `policy_ids_for_teacher(prompt)` and `policy_ids_for_teacher(response)`, predicts each of the M ids
    of the latter, and `teacher_targets` puts the predictions where they belong.
    """

    @property
    def is_identity(self) -> bool:
        """Whether the ids are the same on both sides."""
        ...

    def policy_ids_for_teacher(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(teacher ids (M,), starts (T,)) that spell policy ids (T,).

        Policy token t reads as teacher_ids[starts[t]:starts[t + 1]]; where that is empty it has no guidance.
        """
        ...

    def teacher_targets(
        self, ids: np.ndarray, teacher_ids: np.ndarray, starts: np.ndarray, predicted: np.ndarray
    ) -> np.ndarray:
        """What policy tokens (T,) should have been, in policy ids (T,); -1 where there is no guidance.

        Args:
            ids, teacher_ids, starts: the policy's tokens (T,) and what `policy_ids_for_teacher` made of them.
            predicted: (M,) the teacher's token in place of each of `teacher_ids`: its argmax or a sample.
        """
        ...

    def map_teacher_ids(self, ids: np.ndarray) -> np.ndarray:
        """The policy's id for each teacher id by itself, any shape, for top-k targets; -1 where there is none."""
        ...

    def has_own_logprob(self, teacher_ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """(T,) bool: the teacher's log-probability of that token's pieces, summed, is that of the token's text."""
        ...

    def share_unmapped(self, ids: np.ndarray) -> float:
        """Share of these teacher ids for which the policy has none; negative ids do not count."""
        ...

    def summary(self) -> VocabularySummary:
        """How the two vocabularies fit."""
        ...
