"""A pool of teachers when things go wrong: nothing is lost, nothing is answered twice, and failures are counted.

The teachers are real actors that load no model, so that each can die, hang and start again within a second.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.core.model_answers import process_of
from tests.core.teachers.misbehaving_teachers import DIES, FLAWS, HANGS, RAISES, SLOW, SLOW_S, LightTeacher, spec_of
from tests.episodes import make_episode, stored_group
from tests.waiting import eventually
from tgpo_ray.cluster.actors import ActorStartError
from tgpo_ray.episode import SampledGroup
from tgpo_ray.teachers import GroupRequest, Scoring, ScoringCounts, TeacherGroup, annotate


@pytest.fixture(scope="module")
def pool(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeacherGroup]:
    """Two teachers that no test harms."""
    spec = spec_of(tmp_path_factory.mktemp("pool"))
    group = TeacherGroup(spec, 2, num_cpus=0.1, max_unguided_share=0.5, teacher_class=LightTeacher)
    group.wait_until_ready()
    yield group
    group.stop()


@pytest.fixture
def start(ray_cluster: Any, tmp_path: Path) -> Iterator[Callable[..., TeacherGroup]]:
    """start(num_replicas, ...) -> a pool, up."""
    started: list[TeacherGroup] = []

    def start(num_replicas: int = 1, **options: Any) -> TeacherGroup:
        group = TeacherGroup(spec_of(tmp_path), num_replicas, num_cpus=0.1, teacher_class=LightTeacher, **options)
        started.append(group)
        group.wait_until_ready()
        return group

    yield start
    for group in started:
        group.stop()


def group_of(problem: int = 0, *, ordinal: int, env_index: int = 0) -> SampledGroup:
    """One short episode of this problem."""
    episode = make_episode(prompt=[1], response=[3, 4, 5], problem_index=problem)
    return stored_group(episodes=[episode], ordinal=ordinal, env_index=env_index)


def groups_of(problems: list[int]) -> list[SampledGroup]:
    return [group_of(problem, ordinal=i) for i, problem in enumerate(problems)]


def ordinals(groups: list[SampledGroup], *, guided: bool) -> list[int]:
    return sorted(group.ordinal for group in groups if bool(group.guidance) == guided)


def scored(pool: TeacherGroup, groups: list[SampledGroup]) -> tuple[list[SampledGroup], ScoringCounts]:
    """The groups as they come out, each once, and the counts."""
    with Scoring() as scoring:
        for group in groups:
            scoring.submit(group, [GroupRequest("teacher", pool, ["argmax", "logprob"])])
        found = list(scoring.drain())
    assert sorted(group.ordinal for group in found) == [group.ordinal for group in groups]
    return found, scoring.counts


def score(pool: TeacherGroup, groups: list[SampledGroup]) -> list[SampledGroup]:
    """The groups as they come out; each comes out once."""
    return scored(pool, groups)[0]


# ---- answers that cannot be


def test_garbage_of_every_kind_is_tried_again_counted_and_kept_from_the_loss(pool, capsys):
    found, counts = scored(pool, groups_of([*FLAWS, *range(7)]))
    assert ordinals(found, guided=True) == list(range(len(FLAWS), len(FLAWS) + 7))
    said = capsys.readouterr().out
    assert [flaw for flaw in FLAWS.values() if f"its answer is refused: {flaw}" not in said] == []
    assert counts.metrics() == {
        "guidance/unguided_groups": 0.5, "guidance/retries": 7.0, "guidance/rejected_answers": 14.0,
        "guidance/teacher_restarts": 0.0, "guidance/cache_hits": 0.0,
    }  # fmt: skip
    assert ScoringCounts().metrics() == {}


def test_a_group_whose_scoring_raises_goes_on_without_guidance(pool):
    found, counts = scored(pool, groups_of([1, RAISES, 2]))
    assert ordinals(found, guided=False) == [1]
    assert counts == ScoringCounts(groups=3, unguided=1, retries=1, sequences=2)


def test_too_many_groups_without_guidance_end_the_run(pool):
    with pytest.raises(RuntimeError, match=r"2 of 3 groups got no guidance, above fault_tolerance.max_unguided_share"):
        score(pool, groups_of([0, RAISES, RAISES]))
    assert ordinals(score(pool, groups_of([*range(5)])), guided=False) == []  # the next iteration starts from zero


def test_an_iteration_that_is_given_up_answers_no_other(pool):
    def breaks() -> Iterator[SampledGroup]:
        yield from [group_of(ordinal=100 + i) for i in range(5)]
        raise KeyError("a learner died")

    with pytest.raises(KeyError):
        list(annotate(breaks(), lambda _: pool, ["argmax"]))
    score(pool, groups_of([1, 2, 3]))  # none of the groups above 100


def test_two_iterations_are_scored_at_once_and_each_gets_its_own_groups_and_counts(pool):
    """While a thread waits for the last answers of an iteration, another sends the first groups of the next."""
    with ThreadPoolExecutor(2) as threads:
        early = threads.submit(scored, pool, groups_of([SLOW, RAISES, *[SLOW] * 6]))
        late = threads.submit(scored, pool, groups_of([*range(20)]))
        (first, first_counts), (second, second_counts) = early.result(), late.result()
    assert [ordinals(found, guided=False) for found in (first, second)] == [[1], []]
    assert first_counts == ScoringCounts(groups=8, unguided=1, retries=1, sequences=7)
    assert second_counts == ScoringCounts(groups=20, sequences=20)
    assert pool.num_open == 0


# ---- teachers that die or hang


@pytest.mark.slow
def test_the_others_are_served_while_a_dead_teacher_starts_again(start, tmp_path):
    pool = start(2)
    (tmp_path / "slow_start").write_text("3")
    victim, other = pool.handles
    os.kill(process_of(victim), signal.SIGKILL)
    found, counts = scored(pool, groups_of([*range(40)]))
    assert ordinals(found, guided=False) == []
    assert [replica.alive for replica in pool.replicas] == [False, True]  # the new one was not waited for
    assert counts.restarts == 1
    assert eventually(lambda: bool(score(pool, groups_of([0]))) and all(replica.alive for replica in pool.replicas))
    assert other in pool.handles
    assert victim not in pool.handles


@pytest.mark.slow
def test_with_none_alive_the_work_waits(start):
    pool = start()
    os.kill(process_of(pool.handles[0]), signal.SIGKILL)
    found, counts = scored(pool, groups_of([*range(10)]))
    assert ordinals(found, guided=False) == []
    assert counts == ScoringCounts(groups=10, retries=1, restarts=1, sequences=10)


@pytest.mark.slow
def test_a_teacher_that_dies_in_the_middle_loses_what_it_was_working_on_once(start):
    pool = start(2, max_unguided_share=0.2)
    found, counts = scored(pool, groups_of([SLOW, SLOW, DIES, *[SLOW] * 8]))
    assert ordinals(found, guided=False) == [2]  # it kills whoever reads it, at both tries
    assert (counts.unguided, counts.restarts, counts.groups) == (1, 2, 11)


@pytest.mark.slow
def test_a_teacher_that_hangs_is_replaced_and_every_group_is_guided(start):
    pool = start(timeout_s=1.0)
    os.kill(process_of(pool.handles[0]), signal.SIGSTOP)
    found, counts = scored(pool, groups_of([*range(20)]))
    assert ordinals(found, guided=False) == []
    assert counts == ScoringCounts(groups=20, retries=1, restarts=1, sequences=20)


@pytest.mark.slow
def test_what_hangs_every_teacher_is_left_unguided_and_a_queue_is_no_hanging(start):
    pool = start(timeout_s=1.0, max_unguided_share=0.1)
    number = int(2.0 / SLOW_S)
    found, counts = scored(pool, groups_of([SLOW] * number + [HANGS]))
    assert ordinals(found, guided=False) == [number]
    assert counts.restarts == 2  # at each of its two tries


@pytest.mark.slow
def test_a_teacher_that_cannot_start_any_more_is_given_up_and_the_last_ends_the_run(start, tmp_path, capsys):
    pool = start(2)
    (tmp_path / "failing_start").touch()
    os.kill(process_of(pool.handles[0]), signal.SIGKILL)
    score(pool, groups_of([*range(8)]))
    assert eventually(lambda: bool(score(pool, groups_of([0]))) and len(pool.handles) == 1)
    assert "failed to start again: ValueError: no such model any more" in capsys.readouterr().out
    os.kill(process_of(pool.handles[0]), signal.SIGKILL)
    with pytest.raises(ActorStartError, match=r"no Teacher is left, .* no such model any more"):
        score(pool, groups_of([0]))


# ---- routing


def test_equal_problems_go_to_the_same_teacher_and_others_to_the_least_loaded(pool):
    home = {pool.choose(group).name for group in groups_of([7] * 3)}
    assert len(home) == 1
    assert len({pool.choose(group).name for group in groups_of([*range(30)])}) == 2
    batch = pool.batch("teacher")
    for group in groups_of([7] * 4):
        batch.submit(group, ["argmax"])
    assert sorted(request.replica.name[-1] for request in pool._open) == ["0", "0", "1", "1"]
    assert len(list(batch.drain())) == 4


@pytest.mark.slow
def test_each_group_goes_to_the_pool_of_its_environment(start):
    pools = [start(), start()]
    groups = [group_of(ordinal=i, env_index=i % 2) for i in range(10)]
    chosen: list[int] = []

    def pool_of(group: SampledGroup) -> TeacherGroup:
        chosen.append(group.task.env_index)
        return pools[group.task.env_index]

    found = list(annotate(groups, pool_of, ["argmax"], scorer="two"))
    assert sorted(chosen) == [0] * 5 + [1] * 5
    assert all(list(group.guidance) == ["two"] for group in found)


def test_a_stopped_pool_returns_its_resources(start):
    import ray

    pool = start(2)
    free = ray.available_resources()["CPU"]
    process = process_of(pool.handles[0])
    pool.stop()
    assert eventually(lambda: not Path(f"/proc/{process}").exists())
    assert eventually(lambda: ray.available_resources()["CPU"] == pytest.approx(free + 0.2))
