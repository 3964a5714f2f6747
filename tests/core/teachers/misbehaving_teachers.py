"""Teachers that are real actors but load no model: they answer at once, or misbehave as the problem's index says."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tgpo_ray.episode import Episode, EpisodeGroup, Guidance
from tgpo_ray.models.engine_spec import EngineSpec
from tgpo_ray.teachers import CachingBackend, Teacher, TeacherSpec

NUM_POLICY_IDS = 20
SOUND = 0
SHORT, MISSING, NAN, INFINITE, OUT_OF_RANGE, BELOW_RANGE, TOO_LIKELY, RAISES, DIES, HANGS, SLOW = range(1001, 1012)
FLAWS = {
    SHORT: "teacher_ids has 2 rows for 3 response tokens",
    MISSING: "0 answers to 1 episodes",
    NAN: "teacher_logprobs holds a number that is not finite",
    INFINITE: "teacher_logprobs holds a number that is not finite",
    OUT_OF_RANGE: "teacher_ids reach from 3 to 20, the policy has ids 0..19",
    BELOW_RANGE: "teacher_ids reach from -2 to 3, the policy has ids 0..19",
    TOO_LIKELY: "teacher_logprobs holds 0.5, above 0",
}
SLOW_S = 0.05


def spec_of(folder: Path | str, **options: Any) -> TeacherSpec:
    """`folder` is where each start leaves a file; `slow_start` and `failing_start` there spoil the later starts."""
    engine = EngineSpec(model=str(folder), dtype="float32", max_model_len=64, kv_cache_memory=0)
    return TeacherSpec(engine, policy_tokenizer="", **options)


class LightTeacher(Teacher):
    """Says of every token that it would have written token 3 with log-probability -1, but for the problems above."""

    def __init__(self, spec: TeacherSpec) -> None:
        folder = Path(spec.engine.model)
        started_before = len(list(folder.glob("start-*")))
        (folder / f"start-{started_before}-{os.getpid()}").touch()
        if started_before and (folder / "slow_start").exists():
            time.sleep(float((folder / "slow_start").read_text()))
        if started_before and (folder / "failing_start").exists():
            raise ValueError("no such model any more")
        nothing: Any = SimpleNamespace(stop=lambda: None)
        self.backend = CachingBackend(nothing, 0)
        self.translator: Any = SimpleNamespace(num_policy_ids=NUM_POLICY_IDS)

    def annotate(self, group: EpisodeGroup, want: Collection[str]) -> list[Guidance]:
        answers = [_answer(episode) for episode in group.episodes]
        return [] if group.episodes[0].problem_index == MISSING else answers


def _answer(episode: Episode) -> Guidance:
    problem, length = episode.problem_index, len(episode.response_ids)
    if problem == RAISES:
        raise ArithmeticError("this teacher cannot count")
    if problem == DIES:
        os._exit(1)
    if problem in (HANGS, SLOW):
        time.sleep(3600.0 if problem == HANGS else SLOW_S)
    sound = Guidance(np.full(length, 3, np.int32), np.full(length, -1.0, np.float32))
    assert sound.teacher_ids is not None and sound.teacher_logprobs is not None
    if problem in (OUT_OF_RANGE, BELOW_RANGE):
        return replace(sound, teacher_ids=_spoiled(sound.teacher_ids, -2 if problem == BELOW_RANGE else NUM_POLICY_IDS))
    if problem in (NAN, INFINITE, TOO_LIKELY):
        value = {NAN: np.nan, INFINITE: -np.inf, TOO_LIKELY: 0.5}[problem]
        return replace(sound, teacher_logprobs=_spoiled(sound.teacher_logprobs, value))
    if problem == SHORT:
        return replace(sound, teacher_ids=sound.teacher_ids[:-1])
    return sound


def _spoiled(values: np.ndarray, value: float) -> np.ndarray:
    """The values with the last of them replaced: one bad number among good ones."""
    return np.append(values[:-1], np.asarray(value, values.dtype)).astype(values.dtype)


class GarbageTeacher(LightTeacher):
    """Answers ids that the policy has not, whatever it is asked."""

    def annotate(self, group: EpisodeGroup, want: Collection[str]) -> list[Guidance]:
        return [Guidance(np.full(len(episode.response_ids), NUM_POLICY_IDS, np.int32)) for episode in group.episodes]
