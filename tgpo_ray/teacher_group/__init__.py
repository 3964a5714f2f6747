"""A pool of teachers: work goes to the least loaded, and one that fails degrades the run, loudly."""

from tgpo_ray.teacher_group.counts import ScoringCounts, scoring_metrics
from tgpo_ray.teacher_group.group import TeacherGroup
from tgpo_ray.teacher_group.streaming import annotate

__all__ = ["ScoringCounts", "TeacherGroup", "annotate", "scoring_metrics"]
