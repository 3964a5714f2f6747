"""A teacher: reads what the policy wrote and says, at every position, what it would have written."""

from tgpo_ray.teacher.actor import Teacher
from tgpo_ray.teacher.answers import Verdict, flaw_of
from tgpo_ray.teacher.caching import CachingBackend
from tgpo_ray.teacher.reading import UNREADABLE_LOGPROB, Reader, vocabulary_map
from tgpo_ray.teacher.scoring import MAX_TOP_K, Scores, ScoringBackend, ScoringRequest, Want
from tgpo_ray.teacher.spec import ServerSpec, TeacherSpec

__all__ = [
    "MAX_TOP_K",
    "UNREADABLE_LOGPROB",
    "CachingBackend",
    "Reader",
    "Scores",
    "ScoringBackend",
    "ScoringRequest",
    "ServerSpec",
    "Teacher",
    "TeacherSpec",
    "Verdict",
    "Want",
    "flaw_of",
    "vocabulary_map",
]
