"""Algorithms end to end on real actors: they train, count, save, come back, recover, evaluate and export."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from tests.weights import gap, weights_of
from tgpo_ray.algorithms import SFT
from tgpo_ray.config import ConfigError
from tgpo_ray.driver import Algorithm
from tgpo_ray.episode import EpisodeGroup
from tgpo_ray.reporting.metrics import METRICS

TWO_UPDATES = {"num_iterations": 4, "groups_per_iteration": 4, "group_size": 4, "lr": 1e-3, "updates_per_iteration": 2}
ONE_UPDATE = TWO_UPDATES | {"num_iterations": 2, "updates_per_iteration": 1}


def assert_known(metrics: dict[str, float]) -> None:
    """Every name is documented and every figure finite."""
    unknown = [name for name in metrics if name not in METRICS and not re.fullmatch(r"evaluation/pass_at_\d+", name)]
    assert not unknown
    assert not [name for name, value in metrics.items() if not np.isfinite(value)]


def problems(algorithm: Any) -> list[tuple[int, int]]:
    return [(group.task.problem_index, group.task.seed) for group in sorted(algorithm.sampled, key=lambda g: g.ordinal)]


def episodes(algorithm: Any) -> list[Any]:
    groups: list[EpisodeGroup] = ray.get([group.ref for group in algorithm.sampled])
    return [episode for group in groups for episode in group.episodes]


def kill_learner(algorithm: Algorithm) -> None:
    os.kill(algorithm.learners.processes()[0][1], signal.SIGKILL)


# ---- GRPO


@pytest.fixture(scope="module")
def build(env_runners: Any, teachers: Any) -> Iterator[Callable[..., Any]]:
    """build(config) -> the algorithm on the shared runners and teachers; stopped when the module ends."""
    started: list[Algorithm] = []

    def build(config: Any, **changes: Any) -> Any:
        groups = {"env_runners": env_runners, "teachers": teachers} | changes
        started.append(config.get_algo_class()(config, **groups))
        return started[-1]

    yield build
    for algorithm in started:
        algorithm.stop()


@pytest.fixture(scope="module")
def grpo_config(make_config: Callable[..., Any]) -> Any:
    learners = {"num_learners": 2, "num_cpus_per_learner": 0.5, "token_budget": 64}
    return make_config("GRPO", training=TWO_UPDATES, learners=learners)


@pytest.fixture(scope="module")
def running_grpo(build: Callable[..., Any], grpo_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The algorithm after one iteration, and a copy of its checkpoint: the run's own folder keeps only the last two."""
    algorithm = build(grpo_config)
    algorithm.train()
    return algorithm, algorithm.save(str(tmp_path_factory.mktemp("copy") / "checkpoint_000001"))


@pytest.fixture
def grpo(running_grpo: tuple[Any, str]) -> Any:
    """GRPO after its first iteration: what another test has trained is taken back."""
    algorithm, checkpoint = running_grpo
    algorithm.restore(checkpoint)
    return algorithm


def test_evaluation_walks_the_same_problems_each_time(grpo):
    (first, groups), (second, again) = grpo.evaluate(), grpo.evaluate()
    assert_known(first)
    assert [group.task for group in groups] == [group.task for group in again]
    assert [group.task.problem_index for group in groups] == [0, 1, 2]
    assert first["evaluation/num_problems"] == second["evaluation/num_problems"] == 3.0
    texts: list[Any] = [ray.get([group.ref for group in walk]) for walk in (groups, again)]
    assert [group.prompt_text for group in texts[0]] == [group.prompt_text for group in texts[1]]


@pytest.fixture(scope="module")
def running_sampler_grpo(build: Callable[..., Any], make_config: Callable[..., Any]) -> Any:
    return build(make_config("GRPO", training={**TWO_UPDATES, "old_logprobs": "sampler"}))


@pytest.mark.parametrize("source", ["learner", pytest.param("sampler", marks=pytest.mark.slow)])
def test_grpo_trains_with_two_updates_an_iteration(source, request):
    grpo = request.getfixturevalue("grpo" if source == "learner" else "running_sampler_grpo")
    version, before, iteration = grpo.weights.version, weights_of(grpo.learners), grpo.iteration
    metrics = grpo.train()
    assert_known(metrics)
    assert grpo.iteration == iteration + 1
    assert grpo.weights.version == grpo.env_runners.weights_version == version + 1
    assert {episode.weights_version for episode in episodes(grpo)} == {version} == {metrics["weights_version"]}
    assert metrics["weights_version_lag"] == 0.0
    assert len(grpo.sampled) == 4 and len(episodes(grpo)) == 16
    assert metrics["policy/ratio_deviation"] > 0.0  # the second update's policy is not the one that sampled
    assert gap(weights_of(grpo.learners), before) > 1e-4


@pytest.mark.slow
def test_restored_run_goes_on_as_the_uninterrupted_one(grpo, grpo_config, build, tmp_path):
    checkpoint = grpo.save(str(tmp_path / "copy"))
    assert json.loads((Path(checkpoint) / "algorithm.json").read_text())["iteration"] == 1
    rewards, walked = [], []
    for _ in range(2):
        rewards.append(grpo.train()["reward"])
        walked.append(problems(grpo))
    other = build(grpo_config, run_folder=str(tmp_path / "run"))
    other.restore(checkpoint)
    assert other.iteration == 1
    for expected, tasks in zip(rewards, walked, strict=True):
        assert other.train()["reward"] == pytest.approx(expected, abs=0.05)
        assert problems(other) == tasks
    assert other.iteration == grpo.iteration == 3
    assert gap(weights_of(other.learners), weights_of(grpo.learners)) < 1e-4
    other.stop()


def test_killed_learner_takes_the_run_back_to_its_last_checkpoint(grpo):
    grpo.train()
    grpo.save()
    grpo.train()
    assert grpo.iteration == 3  # the checkpoint is of iteration 2
    version, recoveries = grpo.weights.version, grpo.num_recoveries
    kill_learner(grpo)
    metrics = grpo.train()
    assert_known(metrics)
    assert (grpo.iteration, grpo.num_recoveries) == (3, recoveries + 1)
    assert grpo.weights.version > version  # a version names one set of weights only
    assert {episode.weights_version for episode in episodes(grpo)} == {metrics["weights_version"]}
    saved = grpo.save()
    assert saved.endswith(f"checkpoint_000003_{grpo.num_recoveries}")


def test_export_loads_in_transformers(grpo, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = grpo.export(str(tmp_path / "exported"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    exported = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert gap(exported, weights_of(grpo.learners)) == 0.0
    assert AutoTokenizer.from_pretrained(folder).decode(AutoTokenizer.from_pretrained(folder).encode("12+3")) == "12+3"


def test_checkpoint_of_another_algorithm_or_none_at_all_is_refused(grpo, tmp_path):
    with pytest.raises(ValueError, match=r"is not a checkpoint: it holds no algorithm\.json"):
        grpo.restore(str(tmp_path))
    (tmp_path / "algorithm.json").write_text(json.dumps({"algorithm": "SFT", "iteration": 1}))
    with pytest.raises(ValueError, match="is a checkpoint of SFT, this is GRPO"):
        grpo.restore(str(tmp_path))


# ---- TGPO


def test_tgpo_asks_the_teacher_until_its_weight_is_zero(build, make_config, teachers, monkeypatch):
    submitted: list[int] = []
    send = teachers["default"].send
    monkeypatch.setattr(teachers["default"], "send", lambda *args: (submitted.append(1), send(*args)))
    tgpo = build(make_config("TGPO", training=ONE_UPDATE, guidance={"weight": 0.1, "decay": 0.1}))
    first = tgpo.train()
    assert_known(first)
    assert (len(submitted), first["guidance/weight"], first["guidance/unguided_episodes"]) == (4, 0.1, 0.0)
    assert first["guidance/coverage"] == pytest.approx(1.0) and first["guidance/nll"] > 0.0
    assert all(group.guidance for group in tgpo.sampled)
    second = tgpo.train()
    assert_known(second)
    assert (len(submitted), second["guidance/weight"]) == (4, 0.0)
    assert "guidance/nll" not in second and not any(group.guidance for group in tgpo.sampled)
    assert second["weights_version"] == first["weights_version"] + 1
    tgpo.stop()


@pytest.mark.slow
def test_teachers_that_the_algorithm_started_end_once_the_weight_stays_zero(build, make_config):
    free = ray.available_resources()["CPU"]
    tgpo = build(make_config("TGPO", training=ONE_UPDATE, guidance={"weight": 0.1, "decay": 0.1}), teachers=None)
    assert ray.available_resources()["CPU"] == free - 1.0  # half a CPU each for learner and teacher
    checkpoint = tgpo.save()
    tgpo.train()
    tgpo.train()
    assert not tgpo.teachers
    assert ray.available_resources()["CPU"] == free - 0.5
    tgpo.restore(checkpoint)  # back where guidance is wanted
    assert tgpo.train()["guidance/coverage"] == pytest.approx(1.0)
    tgpo.stop()


# ---- SFT


@pytest.fixture
def sft_sections(tmp_path: Path) -> dict[str, Any]:
    rows = [{"prompt": f"{a}*{b}=", "response": f"\\boxed{{{a * b}}}"} for a in range(2, 5) for b in range(2, 4)]
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "data": {"path": str(tmp_path / "traces.jsonl"), "max_tokens": 64},
        "training": {"num_iterations": 3, "batch_size": 4, "lr": 1e-2, "warmup_ratio": 0.0},
        "evaluation": {"envs": []},
    }


def test_sft_lowers_its_loss_and_continues_to_the_bit(build, make_config, sft_sections):
    sft = build(make_config("SFT", **sft_sections), env_runners=None, teachers=None)
    metrics = [sft.train() for _ in range(2)]
    for found in metrics:
        assert_known(found)
    assert metrics[1]["loss/sft"] < metrics[0]["loss/sft"]
    checkpoint = sft.save()
    after = [sft.train()["loss/sft"] for _ in range(2)]
    final = weights_of(sft.learners)
    sft.restore(checkpoint)
    assert [sft.train()["loss/sft"] for _ in range(2)] == after
    assert gap(weights_of(sft.learners), final) == 0.0
    with pytest.raises(ValueError, match=r"evaluation\.envs is empty"):
        sft.evaluate()
    sft.stop()


@pytest.mark.slow
def test_learner_that_dies_at_a_checkpoint_costs_an_iteration_but_not_the_run(
    ray_cluster, make_config, sft_sections, tmp_path, monkeypatch
):
    storage = {"storage_path": str(tmp_path / "runs"), "every": 1}
    config = make_config("SFT", **sft_sections, checkpointing=storage)
    save, killed = SFT.save, []

    def killing_save(self: SFT, path: str | None = None) -> str:
        if self.iteration == 2 and not killed:
            killed.append(self.iteration)
            kill_learner(self)
        return save(self, path)

    monkeypatch.setattr(SFT, "save", killing_save)
    result = config.fit()
    assert killed == [2] and result.error is None
    lines = (tmp_path / "runs" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2, 3]
    assert json.loads((tmp_path / "runs" / "run" / "run.json").read_text())["iteration"] == 3


# ---- refused before anything starts


@pytest.mark.parametrize(
    ("algorithm", "sections", "message"),
    [
        ("GRPO", {"env": {"id": "tgpo/Math-v0", "kwargs": {"path": "nowhere.jsonl"}}}, r"envs\.0 .*nowhere\.jsonl"),
        ("GRPO", {"model": {"path": "/nowhere/at/all"}}, r"model\.path.*/nowhere/at/all"),
        ("SFT", {"data": {"path": "nowhere.jsonl", "max_tokens": 64}}, r"data\.path: no such file: 'nowhere\.jsonl'"),
    ],
)
def test_errors_in_the_configuration_come_before_ray(algorithm, sections, message, make_config, monkeypatch):
    def refuse(*arguments: Any) -> bool:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("tgpo_ray.cluster.connection.connect", refuse)
    with pytest.raises(ConfigError, match=message):
        make_config(algorithm, **sections).build_algo()


def test_runners_of_another_configuration_are_refused(make_config, env_runners):
    config = make_config("GRPO", env={"id": "tgpo/Arithmetic-v0", "kwargs": {"digits": [2, 2]}})
    with pytest.raises(ValueError, match="env_runners were built for the environments"):
        config.build_algo(env_runners=env_runners)
