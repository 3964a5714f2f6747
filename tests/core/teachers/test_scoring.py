"""Groups on their way through several scorers: each comes back once, with what all of them said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

from tests.core.teachers.misbehaving_teachers import RAISES, LightTeacher, spec_of
from tgpo_ray.episode import Episode, EpisodeGroup, SampledGroup, Task
from tgpo_ray.teachers import GroupRequest, Scoring, TeacherGroup

WANT = {"argmax", "logprob"}


def sampled(ordinal: int, problem: int = 0) -> SampledGroup:
    ids = np.asarray([3, 4, 5], np.int32)
    episode = Episode(ids[:1], ids, np.ones(3, np.uint8), 1.0, "correct", "stop", "x", problem, 0, 0)
    group = EpisodeGroup((episode,))
    return SampledGroup(ordinal, Task(0, problem, 0, ordinal), (episode.info(),), ray.put(group))


@pytest.fixture(scope="module")
def pools(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TeacherGroup]]:
    spec = spec_of(tmp_path_factory.mktemp("pools"))
    options: dict[str, Any] = {"num_cpus": 0.1, "max_unguided_share": 0.5, "teacher_class": LightTeacher}
    groups = [TeacherGroup(spec, **options) for _ in range(2)]
    for pool in groups:
        pool.wait_until_ready()
    yield groups
    for pool in groups:
        pool.stop()


def both(pools: list[TeacherGroup]) -> list[GroupRequest]:
    return [GroupRequest(name, pool, WANT) for name, pool in zip(("reference", "teacher"), pools, strict=True)]


def test_a_group_comes_back_when_all_its_scorers_have_answered(pools: list[TeacherGroup]) -> None:
    requests = {0: both(pools), 1: both(pools)[:1], 2: [], 3: both(pools)}
    found: list[SampledGroup] = []
    with Scoring() as scoring:
        for ordinal, asked in requests.items():
            scoring.submit(sampled(ordinal), asked)
            found += scoring.finished()
        assert 2 in [group.ordinal for group in found]  # nobody was waited for
        found += scoring.drain()
    assert sorted(group.ordinal for group in found) == [0, 1, 2, 3]
    said = {group.ordinal: set(group.guidance) for group in found}
    assert said == {0: {"reference", "teacher"}, 1: {"reference"}, 2: set(), 3: {"reference", "teacher"}}


def test_a_group_keeps_what_one_scorer_said_where_another_failed(pools: list[TeacherGroup]) -> None:
    with Scoring() as scoring:
        scoring.submit(sampled(0), both(pools)[:1])
        scoring.submit(sampled(1, RAISES), both(pools)[1:])
        scoring.submit(sampled(2), both(pools))
        found = {group.ordinal: set(group.guidance) for group in scoring.drain()}
    assert found == {0: {"reference"}, 1: set(), 2: {"reference", "teacher"}}


def test_leaving_the_block_drops_what_is_open(pools: list[TeacherGroup]) -> None:
    with pytest.raises(KeyError), Scoring() as scoring:
        scoring.submit(sampled(7), both(pools))
        raise KeyError("a learner died")
    with Scoring() as scoring:
        scoring.submit(sampled(8), both(pools))
        assert [group.ordinal for group in scoring.drain()] == [8]
