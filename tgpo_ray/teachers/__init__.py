"""Teachers that read the policy's responses and predict the token at every position."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.teachers.answers import AnswerCheck, flaw_of
    from tgpo_ray.teachers.backends.caching import CachingBackend
    from tgpo_ray.teachers.backends.json_server import JsonServer, ServerError
    from tgpo_ray.teachers.backends.transformers_backend import TransformersBackend
    from tgpo_ray.teachers.backends.vllm_backend import VllmBackend
    from tgpo_ray.teachers.building import TEACHER_CONTEXT_SLACK, build_reference, build_teachers, teacher_spec
    from tgpo_ray.teachers.counts import ScoringCounts
    from tgpo_ray.teachers.episode_translator import EpisodeTranslator, vocabulary_map
    from tgpo_ray.teachers.group import TeacherGroup
    from tgpo_ray.teachers.prefix_book import PrefixShelf
    from tgpo_ray.teachers.prefix_file import PrefixHeader, head_bytes, row_bytes, vocabulary_digest
    from tgpo_ray.teachers.spec import ServerSpec, TeacherSpec
    from tgpo_ray.teachers.streaming import GroupRequest, Scoring, annotate
    from tgpo_ray.teachers.teacher import Teacher
    from tgpo_ray.teachers.trace_book import Prefixes, TraceShelf
    from tgpo_ray.teachers.trace_file import TraceData, trace_episode

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "answers": ["AnswerCheck", "flaw_of"],
        "backends.caching": ["CachingBackend"],
        "backends.json_server": ["JsonServer", "ServerError"],
        "backends.transformers_backend": ["TransformersBackend"],
        "backends.vllm_backend": ["VllmBackend"],
        "building": ["TEACHER_CONTEXT_SLACK", "build_reference", "build_teachers", "teacher_spec"],
        "counts": ["ScoringCounts"],
        "episode_translator": ["EpisodeTranslator", "vocabulary_map"],
        "group": ["TeacherGroup"],
        "prefix_book": ["PrefixShelf"],
        "prefix_file": ["PrefixHeader", "head_bytes", "row_bytes", "vocabulary_digest"],
        "spec": ["ServerSpec", "TeacherSpec"],
        "streaming": ["GroupRequest", "Scoring", "annotate"],
        "teacher": ["Teacher"],
        "trace_book": ["Prefixes", "TraceShelf"],
        "trace_file": ["TraceData", "trace_episode"],
    },
)
