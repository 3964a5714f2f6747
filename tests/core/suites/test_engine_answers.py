"""What a suite makes of the groups of runners, with runners whose groups are made up here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.episodes import make_episode
from tgpo_ray.episode import EpisodeGroup, SampledGroup, Task
from tgpo_ray.models import Sampling
from tgpo_ray.suites import SuiteConfig, evaluate_suite, open_suite, rescore_suite
from tgpo_ray.suites.answers_file import read_answers, read_header

SETS = """
evaluation:
  max_problems: 6
  envs:
    - {id: tgpo/Arithmetic-v0, name: small, num_samples: 2, kwargs: {operation: add, digits: [1, 1]}}
    - {id: tgpo/Arithmetic-v0, name: large, kwargs: {operation: add, digits: [2, 1]}}
env_runners: {max_prompt_tokens: 16, max_response_tokens: 32, kv_cache_memory: 64MiB}
"""


class MadeUpRunners:
    """Answers that are right where the response's number is even. It dies after `dies_after` groups, if that is set."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int, Sampling]] = []
        self.dies_after: int | None = None

    def sample(self, tasks: Sequence[Task], k: int, sampling: Sampling, seed: int) -> Iterator[SampledGroup]:
        assert [task.ordinal for task in tasks] == list(range(len(tasks))) and tasks
        for task in tasks:
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise RuntimeError("the runner has died")
            self.asked.append((task.env_index, task.problem_index, k, sampling))
            numbers = range(k)
            episodes = tuple(
                make_episode(prompt=[2, 3], response=[4] * 5, reward=float(n % 2 == 0), stop_reason="stop")
                for n in numbers
            )
            group = EpisodeGroup(episodes, "1+1=", tuple(f"\\boxed{{{n}}}" for n in numbers))
            yield SampledGroup(task.ordinal, task, tuple(it.info() for it in episodes), ref=group)


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> MadeUpRunners:
    made_up = MadeUpRunners()

    @contextmanager
    def standing(config: SuiteConfig) -> Iterator[tuple[SuiteConfig, MadeUpRunners]]:
        yield config.resolved(gpus=False), made_up

    monkeypatch.setattr("tgpo_ray.suites.evaluating.standing_engines", standing)
    monkeypatch.setattr("tgpo_ray.suites.sampling.ray.get", lambda ref: ref)
    return made_up


def test_groups_become_answers_a_death_loses_no_group_and_another_model_is_another_folder(
    runners: MadeUpRunners, tiny_models: Mapping[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "sums.yaml"
    path.write_text(SETS)
    suite, out = open_suite(str(path)), tmp_path / "out"
    models: list[Any] = suite.chosen([tiny_models["policy"], tiny_models["teacher"]])
    runners.dies_after = 8
    with pytest.raises(RuntimeError, match="the runner has died"):
        evaluate_suite(suite, models, out, lambda line: None)
    runners.dies_after = None
    policy, teacher = evaluate_suite(suite, models, out, lambda line: None)
    assert len(runners.asked) == 24 and len({(*it[:3], n // 12) for n, it in enumerate(runners.asked)}) == 24
    assert {it[3] for it in runners.asked} == {Sampling(32, temperature=0.6)}
    assert (policy.sets["small"].accuracy.mean, policy.sets["large"].accuracy.mean) == (0.5, 1.0)
    assert [it.label for it in policy.means] == ["all sets"] and policy.means[0].accuracy.mean == 0.75
    assert (policy.label, teacher.label) == ("policy", "teacher")
    rows = list(read_answers(out / "policy" / "small.jsonl"))
    assert [it.problem for it in rows] == list(range(6))
    assert [(it.text, it.num_tokens) for it in rows[0].answers] == [("\\boxed{0}", 5), ("\\boxed{1}", 5)]
    prints = [read_header(out / name / "small.jsonl")["sampling"]["model"] for name in ("policy", "teacher")]
    assert prints[0] != prints[1]
    # nothing of it was right: the environment itself says so
    again = rescore_suite(suite, models, out, lambda line: None)
    assert [it.sets["small"].accuracy.mean for it in again] == [0.0, 0.0]
    assert len(runners.asked) == 24


def test_a_model_of_another_content_in_the_same_place_is_not_mixed(
    runners: MadeUpRunners, tiny_models: Mapping[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "sums.yaml"
    path.write_text(SETS)
    suite = open_suite(str(path))
    first, second = suite.chosen([tiny_models["policy"], tiny_models["teacher"]])
    evaluate_suite(suite, [first.model_copy(update={"name": "mine"})], tmp_path / "out", lambda line: None)
    with pytest.raises(ValueError, match=r"not mixed \(model\.sha256: "):
        evaluate_suite(suite, [second.model_copy(update={"name": "mine"})], tmp_path / "out", lambda line: None)
