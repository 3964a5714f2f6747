"""A teacher: reads what the policy wrote and says, at every position, what it would have written."""

from tgpo_ray.teacher.actor import Teacher
from tgpo_ray.teacher.reading import UNREADABLE_LOGPROB, Reader, is_aligned, vocabulary_map
from tgpo_ray.teacher.scoring import MAX_TOP_K, Scores, ScoringBackend, ScoringRequest, Want
from tgpo_ray.teacher.spec import TeacherSpec

__all__ = [
    "MAX_TOP_K",
    "UNREADABLE_LOGPROB",
    "Reader",
    "Scores",
    "ScoringBackend",
    "ScoringRequest",
    "Teacher",
    "TeacherSpec",
    "Want",
    "is_aligned",
    "vocabulary_map",
]
