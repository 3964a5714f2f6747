"""A run as a trial of Ray Tune, around a module that prints and writes what a run does; and waiting for one's turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.paths import ROOT
from tgpo_ray.algorithms import GRPOConfig, TGPOConfig
from tgpo_ray.cluster.turns import wait_until_free
from tgpo_ray.driver.trial import (
    Trial,
    TrialError,
    _trial_of,
    belongs_to,
    demand_of,
    follow,
    newest_checkpoint,
    pointer_to,
    run_trial,
    work_folder,
)
from tgpo_ray.driver.trial_process import TrialProcess, driver_environment

FAKE = """
import json, signal, sys, time
from pathlib import Path

folder = Path("runs/fake")
folder.mkdir(parents=True, exist_ok=True)
print(f"run folder: {folder.resolve()}", flush=True)
(folder / "config.yaml").write_text("name: fake")
signal.signal(signal.SIGTERM, lambda *_: (folder / "ended").write_text("SIGTERM") and sys.exit(130))
rows = json.loads(Path("rows.json").read_text())
with (folder / "metrics.jsonl").open("a") as file:
    for row in rows:
        if row == "wait":
            time.sleep(60)
        elif row == "fail":
            print("the run failed: the teacher is gone", file=sys.stderr)
            sys.exit(1)
        else:
            file.write(json.dumps(row) + "\\n")
            file.flush()
            if row.get("save"):
                saved = {"iteration": row["iteration"], "folders": ["checkpoints/c"], "files": {}, "values": {}}
                state = {"session": 1, "checkpoints": [saved]}
                (folder / "run.json").write_text(json.dumps(state))
print("options:", *sys.argv[2:])
"""


@pytest.fixture
def starting(tmp_path: Path) -> Callable[..., Callable[[list[str]], TrialProcess]]:
    """starting(rows) -> what `follow` starts: the fake run in tmp_path."""
    (tmp_path / "fake_run.py").write_text(FAKE)

    def prepare(rows: list[Any]) -> Callable[[list[str]], TrialProcess]:
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
        return lambda options: TrialProcess(
            tmp_path / "config.yaml", tmp_path / "output.txt", options, environment, tmp_path, module="fake_run"
        )

    return prepare


def followed(start: Any, *, evaluates: bool = False, **fields: Any) -> tuple[list[dict[str, float]], list[Any]]:
    rows: list[dict[str, float]] = []
    checkpoints: list[Any] = []

    def report(row: dict[str, float], checkpoint: Any) -> None:
        rows.append(row)
        checkpoints.append(checkpoint)

    follow(Trial({}, "", **fields), start, report, evaluates)
    return rows, checkpoints


def test_tune_gets_every_row_once(starting: Any, tmp_path: Path) -> None:
    folders: list[str] = []
    rows, checkpoints = followed(
        starting([{"iteration": 0, "reward": 0.5}, {"iteration": 1, "reward": None, "tokens": 3}]), note=folders.append
    )
    assert rows == [{"iteration": 0, "reward": 0.5}, {"iteration": 1, "tokens": 3.0}]  # a NaN is left out
    assert checkpoints == [None, None] and set(folders) == {str(tmp_path / "runs" / "fake")}
    assert "--resume auto" in (tmp_path / "output.txt").read_text()


def test_rows_between_evaluations_have_the_last_ones_figures(starting: Any) -> None:
    written = [{"iteration": 1}, {"iteration": 2, "evaluation/accuracy": 0.3}, {"iteration": 3, "reward": 1.0}]
    rows, _ = followed(starting(written), evaluates=True)
    assert [row["iteration"] for row in rows] == [2, 3]  # a scheduler would refuse the first
    assert rows[1] == {"iteration": 3, "reward": 1.0, "evaluation/accuracy": 0.3}


def test_a_run_that_fails_ends_the_trial_with_its_last_line(starting: Any) -> None:
    with pytest.raises(TrialError, match=r"^the run failed: the teacher is gone$"):
        followed(starting([{"iteration": 1}, "fail"]))


def test_a_trial_that_is_stopped_ends_its_run(starting: Any) -> None:
    processes: list[TrialProcess] = []
    start = starting([{"iteration": 1}, "wait"])

    def remembering(options: list[str]) -> TrialProcess:
        processes.append(start(options))
        return processes[-1]

    def stop(row: dict[str, float], checkpoint: Any) -> None:
        raise SystemExit(0)  # what `tune.report` does in a trial that a scheduler has stopped

    with pytest.raises(SystemExit):
        follow(Trial({}, ""), remembering, stop, False)
    assert processes[0].process.poll() is not None


def test_only_iterations_with_a_checkpoint_are_reported_where_it_is_asked_for(starting: Any, tmp_path: Path) -> None:
    written = [{"iteration": 1}, {"iteration": 2, "save": True}, {"iteration": 3}]
    rows, checkpoints = followed(starting(written), by_checkpoint=True)
    assert [row["iteration"] for row in rows] == [2]
    named = json.loads(Path(checkpoints[0].path, "run.json").read_text())
    assert named["checkpoint"] == str(tmp_path / "runs" / "fake" / "checkpoints" / "c") and named["iteration"] == 2


def test_a_trial_may_begin_from_anothers_checkpoint(starting: Any, tmp_path: Path) -> None:
    followed(starting([]), begin="/runs/other/checkpoints/c")
    assert "--from /runs/other/checkpoints/c" in (tmp_path / "output.txt").read_text()


def test_a_run_whose_trial_is_killed_gets_sigterm(starting: Any, tmp_path: Path) -> None:
    """Ray kills the process of a trial whose driver has died. The run then saves and ends."""
    starting([{"iteration": 1}, "wait"])
    script = f"""
import os, sys
from pathlib import Path
from tgpo_ray.driver.trial_process import TrialProcess
here = Path({str(tmp_path)!r})
trial = TrialProcess(here / "c", here / "output.txt", [], os.environ, here, module="fake_run")
next(trial.rows())
print("going", flush=True)
trial.process.wait()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"going\n"
        parent.send_signal(signal.SIGKILL)
    ended, give_up = tmp_path / "runs" / "fake" / "ended", time.monotonic() + 20
    while not ended.exists() and time.monotonic() < give_up:
        time.sleep(0.05)
    assert ended.read_text() == "SIGTERM"


def test_a_replaced_checkpoint_gives_way_to_the_newest_of_its_run(tmp_path: Path) -> None:
    run = tmp_path / "a-seed0"
    (run / "checkpoints" / "new").mkdir(parents=True)
    saved = {"iteration": 4, "folders": ["checkpoints/new"], "files": {}, "values": {}}
    (run / "run.json").write_text(json.dumps({"session": 1, "checkpoints": [saved]}))
    named = {"folder": str(run), "checkpoint": str(run / "checkpoints" / "old")}
    assert newest_checkpoint(named) == str(run / "checkpoints" / "new")
    assert newest_checkpoint(named | {"checkpoint": str(run)}) == str(run)
    assert pointer_to(str(tmp_path)) is None


def test_a_second_folder_of_a_name_is_the_same_trials() -> None:
    assert belongs_to("/runs/a-seed1", "a-seed1") and belongs_to("/runs/a-seed1-3", "a-seed1")
    assert not belongs_to("/runs/a-seed12", "a-seed1") and not belongs_to("/runs/a-seed1-b", "a-seed1")


def test_keys_of_the_space_are_keys_of_the_run() -> None:
    plain = TGPOConfig(name="search").models(path="p").teachers(path="t").environment("tgpo/Arithmetic-v0").to_dict()
    space = {"guidance.weight": np.float32(0.5), "teacher.path": "near", "seed": np.int64(3)}
    trial = _trial_of(plain, space, "abc_00001", "/work")
    assert trial.config["guidance"]["weight"] == 0.5 and trial.config["teachers"]["default"]["path"] == "near"
    assert (trial.config["seed"], trial.config["name"]) == (3, "search-abc_00001")
    with pytest.raises(ValueError, match=r"guidance.wait: unknown key"):
        _trial_of(plain, {"guidance.wait": 1.0}, "abc", "/work")


def test_a_trial_waits_for_the_sum_of_its_actors() -> None:
    config = TGPOConfig().models(path="p").teachers(path="t", num_cpus_per_replica=0.5).learners(num_learners=2)
    assert demand_of(config, gpus=False) == {"CPU": 2 * 1.0 + 1.0 + 0.5}
    assert demand_of(GRPOConfig(), gpus=True)["GPU"] == 2.0


def test_waiting_ends_when_there_is_room_or_when_there_can_never_be() -> None:
    free = iter([{"CPU": 0.5}, {"CPU": 0.9999999}, {}])
    assert wait_until_free({"CPU": 1.0}, lambda: next(free), lambda: {"CPU": 2.0}, poll_s=0.0)
    assert not wait_until_free({"CPU": 1.0, "GPU": 1.0}, lambda: {"CPU": 8.0}, lambda: {"CPU": 8.0}, poll_s=0.0)


def test_a_new_driver_gets_none_of_what_names_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RAY_JOB_ID": "01", "RAY_AUTH_MODE": "token", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)
    environment = driver_environment("10.0.0.1:6379", {"working_dir": "gcs://a.zip"})
    assert "RAY_JOB_ID" not in environment and "CUDA_VISIBLE_DEVICES" not in environment
    assert (environment["RAY_ADDRESS"], environment["RAY_AUTH_MODE"]) == ("10.0.0.1:6379", "token")
    assert json.loads(environment["RAY_JOB_CONFIG_JSON_ENV_VAR"]) == {"runtime_env": {"working_dir": "gcs://a.zip"}}


def test_a_trial_has_its_output_beside_the_runs(tmp_path: Path) -> None:
    assert work_folder(str(tmp_path), "a-seed0") == tmp_path / "trials" / "a-seed0"
    assert callable(run_trial)
