"""A pool of teachers when things go wrong: nothing is lost, nothing is answered twice, and failures are counted."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tgpo_ray.engine import EngineSpec
from tgpo_ray.env_runner_group import SampledGroup
from tgpo_ray.episode import ORIGIN_POLICY, Episode, EpisodeGroup, Task
from tgpo_ray.teacher import TeacherSpec
from tgpo_ray.teacher_group import TeacherGroup, annotate

CONTEXT = 64


@pytest.fixture(scope="module")
def pool(ray_cluster: Any, tiny_models: dict[str, str]) -> Iterator[TeacherGroup]:
    """One teacher. It is killed, stopped and started again here: the suite's own must not be."""
    engine = EngineSpec(
        model=tiny_models["teacher"], dtype="float32", max_model_len=CONTEXT, kv_cache_memory=64 * 2**20
    )
    group = TeacherGroup(TeacherSpec(engine, policy_tokenizer=tiny_models["policy"]), num_cpus=0.5)
    group.wait_until_ready()
    yield group
    group.stop()


def group_of(response: list[int], ordinal: int, *, size: int = 1) -> SampledGroup:
    import ray

    episode = Episode(
        prompt_ids=np.asarray([3, 4], np.int32),
        response_ids=np.asarray(response, np.int32),
        origin=np.full(len(response), ORIGIN_POLICY, np.uint8),
        reward=0.0,
        outcome="wrong",
        stop_reason="stop",
        env_id="test",
        problem_index=0,
        seed=0,
        weights_version=0,
    )
    infos, ref = (episode.info(),) * size, ray.put(EpisodeGroup((episode,) * size))
    return SampledGroup(ordinal, Task(0, 0, 0, ordinal), infos, ref)


@pytest.fixture(scope="module")
def sampled(ray_cluster: Any) -> list[SampledGroup]:
    """Five groups of one episode."""
    return [group_of([5 + i] * (8 + i), i) for i in range(5)]


def guided(pool: TeacherGroup, groups: list[SampledGroup]) -> list[SampledGroup]:
    """The groups in order; all of them came back, each once and with guidance."""
    found = sorted(annotate(groups, lambda _: pool, ["argmax"]), key=lambda group: group.ordinal)
    assert [group.ordinal for group in found] == [group.ordinal for group in groups]
    assert all(list(group.guidance) == ["teacher"] for group in found)
    return found


def too_long(ordinal: int) -> SampledGroup:
    """A response beyond the teacher's context: scoring it raises, on every replica and at every try."""
    return group_of([5] * 200, ordinal)


def test_a_group_that_cannot_be_scored_goes_on_without_guidance(pool: TeacherGroup, sampled: list[SampledGroup]):
    pool._max_unguided_share = 0.5
    found = list(annotate([*sampled, too_long(5)], lambda _: pool, ["argmax"]))
    assert sorted(group.ordinal for group in found) == list(range(6))
    assert {group.ordinal for group in found if not group.guidance} == {5}
    assert pool.num_restarts == 0


def test_too_many_groups_without_guidance_end_the_run(pool: TeacherGroup, sampled: list[SampledGroup]):
    pool._max_unguided_share = 0.1
    with pytest.raises(RuntimeError, match=r"1 of 6 groups got no guidance, above fault_tolerance.max_unguided_share"):
        list(annotate([*sampled, too_long(5)], lambda _: pool, ["argmax"]))
    assert len(guided(pool, sampled)) == 5  # the next iteration starts from zero


def test_an_iteration_that_is_given_up_answers_no_other(pool: TeacherGroup, sampled: list[SampledGroup]):
    def breaks() -> Iterator[SampledGroup]:
        yield from [replace(group, ordinal=100 + group.ordinal) for group in sampled]
        raise KeyError("a learner died")

    with pytest.raises(KeyError):
        for _ in annotate(breaks(), lambda _: pool, ["argmax"]):
            pass
    assert len(guided(pool, sampled)) == 5  # none of the groups above 100


def process_of(pool: TeacherGroup, replica: int = 0) -> int:
    import ray

    return ray.get(pool._replicas[replica].__ray_call__.remote(lambda self: os.getpid()))


def many(sampled: list[SampledGroup], times: int) -> list[SampledGroup]:
    return [replace(group, ordinal=i) for i, group in enumerate(sampled * times)]


@pytest.mark.slow
def test_a_teacher_that_dies_in_the_middle_is_replaced_and_every_group_is_guided(
    pool: TeacherGroup, sampled: list[SampledGroup]
):
    victim = process_of(pool)
    groups = many(sampled, 20)

    def kill_after_submitting() -> Iterator[SampledGroup]:
        yield from groups
        os.kill(victim, signal.SIGKILL)

    found = list(annotate(kill_after_submitting(), lambda _: pool, ["argmax"]))
    assert pool.num_restarts == 1
    assert sorted(group.ordinal for group in found) == list(range(100))
    assert all(group.guidance for group in found)


@pytest.mark.slow
def test_a_teacher_that_hangs_is_replaced_and_every_group_is_guided(pool: TeacherGroup, sampled: list[SampledGroup]):
    before, pool._timeout_s = pool.num_restarts, 5.0
    os.kill(process_of(pool), signal.SIGSTOP)
    assert len(guided(pool, many(sampled, 4))) == 20
    assert pool.num_restarts == before + 1


@pytest.mark.slow
def test_a_teacher_that_is_too_slow_leaves_its_group_unguided(pool: TeacherGroup, sampled: list[SampledGroup]):
    before = pool.num_restarts
    pool._timeout_s, pool._max_unguided_share = 0.1, 1.0
    (group,) = annotate([group_of([5] * 60, ordinal=0, size=5000)], lambda _: pool, ["argmax", "topk:16"])  # seconds
    assert not group.guidance
    assert pool.num_restarts == before + 2  # at each of its two tries
    pool._timeout_s = 60.0
    guided(pool, sampled)


def test_a_stopped_pool_returns_its_resources(pool: TeacherGroup):
    import ray

    free = ray.available_resources()["CPU"]
    process = process_of(pool)
    pool.stop()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and Path(f"/proc/{process}").exists():
        time.sleep(0.1)
    assert not Path(f"/proc/{process}").exists()
    while time.monotonic() < deadline and ray.available_resources()["CPU"] < free + 0.5:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == free + 0.5
