"""Runs that lose what commands their learners, or that get a notice: their figures are those of an undisturbed run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tgpo_ray.algorithms import GRPO
from tgpo_ray.driver import fit
from tgpo_ray.learners import LearnerError, LearnerGroup
from tgpo_ray.reporting import read_metrics

pytestmark = pytest.mark.long

REPEATED = ("time/", "wait/", "throughput/", "weights_version", "recoveries")
"""What a run that has gone back may count otherwise."""


def figures(folder: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in row.items() if not name.startswith(REPEATED)}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


def kill_process(title: str) -> None:
    """Kill the youngest process of this title in the suite's Ray."""
    found = [p for p in psutil.Process().children(recursive=True) if title in " ".join(p.cmdline())]
    max(found, key=lambda process: process.create_time()).kill()


@pytest.fixture(scope="module")
def config(make_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """config(name, **fault_tolerance) -> a run of four iterations with a checkpoint after the second."""
    storage = tmp_path_factory.mktemp("survival")

    def make(name: str, **fault_tolerance: Any) -> Any:
        return make_config(
            name=name,
            training={"num_iterations": 4, "updates_per_iteration": 2},
            evaluation={"at_start": False, "every": 2},
            checkpointing={"storage_path": str(storage), "every": 2},
            fault_tolerance={"preflight": False, "sampler_gap_every": 0, **fault_tolerance},
        )

    return make


@pytest.fixture(scope="module")
def undisturbed(config: Callable[..., Any], env_runners: Any) -> list[dict[str, float]]:
    return figures(Path(fit(config("undisturbed"), env_runners=env_runners).path))


@pytest.fixture
def at_iteration(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[int]]]:
    """at_iteration(3, act, command) -> acts once, when a command goes to the learners or before the iteration."""

    def arrange(iteration: int, act: Callable[[], None], command: str | None = None) -> list[int]:
        done: list[int] = []
        train, send = GRPO.train, LearnerGroup._send
        present = [0]

        def once(algorithm_iteration: int) -> None:
            if algorithm_iteration == iteration and not done:
                done.append(iteration)
                act()

        def training(self: GRPO) -> Any:
            present[0] = self.iteration
            if command is None:
                once(self.iteration)
            return train(self)

        def sending(self: LearnerGroup, name: str, payloads: Any) -> Any:
            sent = send(self, name, payloads)
            if name == command:
                once(present[0])
            return sent

        monkeypatch.setattr(GRPO, "train", training)
        monkeypatch.setattr(LearnerGroup, "_send", sending)
        return done

    yield arrange


@pytest.mark.parametrize("command", [None, "step"], ids=["between-iterations", "in-an-update"])
@pytest.mark.parametrize("process", ["ray::Mailbox", "ray::TrainController"])
def test_a_run_whose_mailbox_or_controller_dies_has_the_figures_of_an_undisturbed_one(
    process: str, command: str | None, config: Any, undisturbed: Any, at_iteration: Any, env_runners: Any, capsys: Any
):  # fmt: skip
    done = at_iteration(3, lambda: kill_process(process), command)
    name = f"{process[5:]}-{command}"
    result = fit(config(name), env_runners=env_runners)
    assert done == [3]
    assert figures(Path(result.path)) == undisturbed
    assert read_metrics(Path(result.path) / "metrics.jsonl")[-1]["recoveries"] == 1.0
    who = "mailbox" if "Mailbox" in process else "controller"
    said = [line for line in capsys.readouterr().out.splitlines() if "going back from iteration 3 to 2" in line]
    assert len(said) == 1 and who in said[0]


def test_learners_that_die_while_nobody_waits_for_them_take_no_update_back_unseen(
    config: Callable[..., Any],
    undisturbed: Any,
    at_iteration: Any,
    env_runners: Any,
    capsys: pytest.CaptureFixture[str],
):
    def kill_and_wait() -> None:
        kill_process("ray::RayTrainWorker")
        time.sleep(25.0)  # until Ray Train has started others, which have the weights of iteration 2

    at_iteration(3, kill_and_wait)
    result = fit(config("unseen"), env_runners=env_runners)
    assert figures(Path(result.path)) == undisturbed
    assert "going back from iteration 3 to 2" in capsys.readouterr().out


def test_a_run_without_restarts_left_names_who_died_and_the_way_on(
    config: Callable[..., Any], at_iteration: Any, env_runners: Any
):
    at_iteration(3, lambda: kill_process("ray::Mailbox"), "step")
    with pytest.raises(LearnerError, match="mailbox has died, and fault_tolerance") as raised:
        fit(config("spent", max_learner_restarts=0), env_runners=env_runners)
    (note,) = raised.value.__notes__
    assert "checkpoint_000002; go on with: python -m tgpo_ray.train " in note


@pytest.mark.parametrize("command", [None, "step", "weight_buckets"], ids=["sampling", "update", "sync"])
def test_a_notice_leaves_a_checkpoint_from_which_the_run_goes_on_as_if_it_had_not_come(
    command: str | None, config: Callable[..., Any], undisturbed: Any, at_iteration: Any, env_runners: Any
):
    at_iteration(2, lambda: os.kill(os.getpid(), signal.SIGTERM), command)
    name = f"notice-{command}"
    with pytest.raises(KeyboardInterrupt, match="SIGTERM") as raised:
        fit(config(name, grace_s=60.0), env_runners=env_runners)
    (note,) = raised.value.__notes__
    assert f"checkpoint_00000{2 if command is None else 3}; go on with" in note
    folder = note.rpartition("--resume ")[2]
    assert figures(Path(folder)) == undisturbed[: 2 if command is None else 3]
    fit(config(name), resume=folder, env_runners=env_runners)
    assert figures(Path(folder)) == undisturbed


def test_an_evaluation_that_outlasts_the_grace_is_given_up_for_a_checkpoint(
    config: Callable[..., Any], undisturbed: Any, env_runners: Any, monkeypatch: pytest.MonkeyPatch
):
    def endless(self: GRPO) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(100.0)

    monkeypatch.setattr(GRPO, "evaluate", endless)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM") as raised:
        fit(config("evaluating", grace_s=0.5), env_runners=env_runners)
    (note,) = raised.value.__notes__
    assert "checkpoint_000002; go on with" in note
    rows = figures(Path(note.rpartition("--resume ")[2]))
    assert len(rows) == 2 and rows[0] == undisturbed[0]


def test_a_task_queue_that_dies_while_runners_sample_loses_no_group_and_changes_no_token(
    config: Callable[..., Any], undisturbed: Any, env_runners: Any, monkeypatch: pytest.MonkeyPatch
):
    from tgpo_ray.env_runners import SamplingSession

    read, killed = SamplingSession._read, []

    def killing(self: SamplingSession, stream: Any) -> Any:
        group = read(self, stream)
        if not killed:
            killed.append(True)
            kill_process("ray::TaskQueue")
        return group

    monkeypatch.setattr(SamplingSession, "_read", killing)
    result = fit(config("queue"), env_runners=env_runners)
    assert killed and figures(Path(result.path)) == undisturbed
