"""Nothing is left behind, no process and no shared memory: after success, an error in an actor, SIGINT and SIGTERM."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tgpo_ray.reporting.metrics import read_metrics

SHARED_MEMORY = Path("/dev/shm")
GONE_S = 10.0  # how long the last processes of a local Ray may take to end after the driver
ENDLESS = {"num_iterations": 100_000, "updates_per_iteration": 1}


def processes_of_kind(session: str, name: str) -> list[psutil.Process]:
    """Processes of a run (driver, gcs_server, raylet, workers) with `name` in their command line.

    They inherit its environment.
    """
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("TGPO_RAY_TEST_SESSION") == session and process.status() != "zombie"
            if ours and name in line_of(process):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def line_of(process: psutil.Process) -> str:
    return " ".join(process.cmdline()) or process.name()


def processes_of(session: str) -> list[str]:
    """Command lines of all processes of a run."""
    found = []
    for process in processes_of_kind(session, ""):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            found.append(line_of(process))
    return found


def shared_memory() -> set[str]:
    return {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def is_mapped(path: Path) -> bool:
    """Whether a living process uses the file: then it is another session's."""
    for process in psutil.process_iter():
        try:
            if any(entry.path == str(path) for entry in process.memory_maps()):
                return True
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return False


@pytest.fixture
def leaves_nothing() -> Iterator[Callable[[str], None]]:
    """leaves_nothing(session) after the run has ended."""
    before = shared_memory()

    def check(session: str) -> None:
        end = time.monotonic() + GONE_S
        while processes_of(session) and time.monotonic() < end:
            time.sleep(0.2)
        assert processes_of(session) == []
        assert [name for name in shared_memory() - before if not is_mapped(SHARED_MEMORY / name)] == []

    yield check


@pytest.mark.slow
def test_an_error_in_an_actor_keeps_what_was_there_and_ends_every_process(
    write_job: Callable[..., Path], start_train: Callable[..., Any], leaves_nothing: Callable[[str], None],
    tmp_path: Path,
) -> None:  # fmt: skip
    # four problems an iteration: the fifth, of iteration 2, has the first NaN
    env = {"id": "nan_env:tests/Nan-v0", "kwargs": {"first_bad": 4, "digits": [1, 1]}}
    checkpointing = {"storage_path": "runs", "every": 1}
    job = write_job(tmp_path / "job", env=env, training=ENDLESS, checkpointing=checkpointing)
    run = start_train(job)
    assert run.wait() == 1, run.text()

    reason = run.lines()[-1]
    assert reason.startswith("the run failed: nan_env:tests/Nan-v0, problem ")
    assert "the environment returned the reward nan; a reward must be a finite number" in reason
    assert "Traceback" not in run.text()
    folder = job.parent / "runs" / "job"
    assert [row["iteration"] for row in read_metrics(folder / "metrics.jsonl")] == [1]
    state = json.loads((folder / "run.json").read_text())
    assert state["iteration"] == 1
    assert (folder / state["checkpoint"] / "learner.pt").is_file()
    leaves_nothing(run.session)


@pytest.mark.long
def test_ctrl_c_in_the_middle_of_an_iteration_ends_every_process(
    write_job: Callable[..., Path], start_train: Callable[..., Any], leaves_nothing: Callable[[str], None],
    tmp_path: Path,
) -> None:  # fmt: skip
    assert_interrupted(write_job(tmp_path / "job", training=ENDLESS), start_train, leaves_nothing, signal.SIGINT)


@pytest.mark.long
def test_sigterm_ends_a_guided_run_with_its_teacher(
    write_job: Callable[..., Path], start_train: Callable[..., Any], leaves_nothing: Callable[[str], None],
    tmp_path: Path,
) -> None:  # fmt: skip
    job = write_job(tmp_path / "job", "TGPO", training=ENDLESS)
    assert_interrupted(job, start_train, leaves_nothing, signal.SIGTERM)


def assert_interrupted(
    job: Path, start_train: Callable[..., Any], leaves_nothing: Callable[[str], None], number: signal.Signals
) -> None:
    run = start_train(job, "reporting.progress=true")
    run.wait_for("/100000  reward")
    time.sleep(0.3)
    run.signal(number)
    assert run.wait(60.0) == 130, run.text()
    said, _, way_on = run.lines()[-1].partition("; ")
    assert said == f"interrupted ({number.name}): all actors have ended"
    rows = read_metrics(job.parent / "runs" / "job" / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == list(range(1, len(rows) + 1))
    if number == signal.SIGTERM:  # a notice: the checkpoint of the last whole iteration was made first
        last = json.loads((job.parent / "runs" / "job" / "run.json").read_text())["iteration"]
        assert (
            rows[-1]["iteration"] == last and f"checkpoint_{last:06d}; go on with: python -m tgpo_ray.train " in way_on
        )
    else:
        assert way_on == f"no checkpoint was finished in {job.parent / 'runs' / 'job'}: start the run again"
    leaves_nothing(run.session)


@pytest.mark.long
def test_the_loss_of_rays_head_ends_a_run_with_the_way_on(
    write_job: Callable[..., Path], start_train: Callable[..., Any], leaves_nothing: Callable[[str], None],
    tmp_path: Path,
) -> None:  # fmt: skip
    job = write_job(tmp_path / "job", training=ENDLESS, checkpointing={"storage_path": "runs", "every": 1})
    run = start_train(job, "reporting.progress=true", RAY_gcs_rpc_server_reconnect_timeout_s="12")
    run.wait_for("/100000  reward")
    (head,) = processes_of_kind(run.session, "gcs_server")
    head.kill()
    assert run.wait(90.0) == 1, run.text()
    reason = run.lines()[-1]
    assert reason.startswith("the run failed: Ray's head process (GCS) at ") and "go on with: python -m" in reason
    leaves_nothing(run.session)


@pytest.mark.long
def test_a_signal_while_actors_start_leaves_no_process_and_no_folder(
    write_job: Callable[..., Path], start_train: Callable[..., Any], leaves_nothing: Callable[[str], None],
    tmp_path: Path,
) -> None:  # fmt: skip
    job = write_job(tmp_path / "job", training=ENDLESS)
    run = start_train(job)
    end = time.monotonic() + 120.0
    while not any("EnvRunner" in line for line in processes_of(run.session)):
        assert time.monotonic() < end, run.text()
        time.sleep(0.1)
    run.signal(signal.SIGTERM)
    assert run.wait(90.0) == 130, run.text()
    assert run.lines()[-1] == "interrupted (SIGTERM): all actors have ended"
    assert not (job.parent / "runs" / "job").exists()
    leaves_nothing(run.session)


@pytest.mark.long
def test_success_leaves_a_report_and_no_process_of_runner_teacher_learner_or_verifier(
    write_job: Callable[..., Path], start_train: Callable[..., Any], leaves_nothing: Callable[[str], None],
    tmp_path: Path,
) -> None:  # fmt: skip
    problems = tmp_path / "rows.jsonl"
    problems.write_text("".join(json.dumps({"problem": f"{i}+1=", "answer": str(i + 1)}) + "\n" for i in range(9)))
    env = {"id": "tgpo/Math-v0", "kwargs": {"path": str(problems), "prompt": "{problem}"}}
    job = write_job(tmp_path / "job", "TGPO", env=env)
    run = start_train(job)
    seen: set[str] = set()
    while run.process.poll() is None:
        seen |= {
            word for line in processes_of(run.session) for word in ("raylet", "verifiers/worker.py") if word in line
        }
        time.sleep(0.5)
    assert run.wait() == 0, run.text()
    assert seen == {"raylet", "verifiers/worker.py"}  # the listing sees what it is meant to see
    folder = job.parent / "runs" / "job"
    assert run.lines() == [f"report: {folder / 'report.html'}", f"done: {folder}"]
    leaves_nothing(run.session)


@pytest.mark.long
def test_an_engine_that_cannot_start_is_named_and_leaves_no_folder(
    write_job: Callable[..., Path], start_train: Callable[..., Any], leaves_nothing: Callable[[str], None],
    tmp_path: Path, tiny_models: dict[str, str],
) -> None:  # fmt: skip
    # room for one sequence, which is what the configuration asks for, and not for a block of vLLM's
    job = write_job(tmp_path / "job", env_runners={"kv_cache_memory": "24KiB"})
    run = start_train(job)
    assert run.wait() == 1, run.text()
    reason = run.lines()[-1]
    assert reason.startswith("the run failed: EnvRunner failed to start: ")
    assert f"It loads model {tiny_models['policy']!r} into vLLM with a KV cache of " in reason
    assert "Traceback" not in run.text()
    assert not (job.parent / "runs" / "job").exists()
    leaves_nothing(run.session)


@pytest.mark.long
def test_weights_that_cannot_be_read_are_named_before_anything_starts(
    write_job: Callable[..., Path], start_train: Callable[..., Any], leaves_nothing: Callable[[str], None],
    tmp_path: Path, tiny_models: dict[str, str],
) -> None:  # fmt: skip
    broken = tmp_path / "broken"
    shutil.copytree(tiny_models["policy"], broken)
    with (broken / "model.safetensors").open("r+b") as file:
        file.truncate(1000)  # a download that was cut, or a Git LFS pointer
    job = write_job(tmp_path / "job", model={"path": str(broken)})
    run = start_train(job)
    assert run.wait() == 2, run.text()
    reason = run.lines()[-1]
    assert reason.startswith(f"configuration error: model.path: {broken}: model.safetensors of 1000 bytes is cut off ")
    assert "Traceback" not in run.text()
    assert not (job.parent / "runs" / "job").exists()
    leaves_nothing(run.session)
