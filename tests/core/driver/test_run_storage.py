"""A run's folder on a disk and behind a URI: whole at every checkpoint, of one process, and continued to the digit."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.core.driver.counting_algorithm import WEIGHTS, at, raising, rewards, rows_in, run, run_file, saved
from tests.core.reporting.token_episodes import token_episode
from tgpo_ray.cluster import join, names_in, read_text
from tgpo_ray.config import ConfigError
from tgpo_ray.driver import checkpoints, run_folder
from tgpo_ray.driver.run import Run
from tgpo_ray.driver.saved_checkpoints import Best, RunState, SavedCheckpoint
from tgpo_ray.driver.signals import Notice
from tgpo_ray.reporting import TokenFiles

CRASH = RuntimeError("the machine went away")


# ---- one run


def test_a_run_that_died_goes_on_to_the_same_figures(storage: str, config_of: Any, tmp_path: Path) -> None:
    undisturbed = run(config_of(str(tmp_path / "undisturbed")))
    with pytest.raises(RuntimeError, match="went away"):
        run(config_of(storage), train=at(5, raising(CRASH)))
    folder = join(storage, "counted")
    assert run_file(folder)["iteration"] == 4
    result = run(config_of(storage), resume=folder)
    assert rewards(folder) == rewards(undisturbed.path)
    assert result.path == folder and result.checkpoint.path.endswith("checkpoints-2/checkpoint_000006")
    assert [row["tokens/total"] for row in rows_in(folder)] == [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    assert "claims" not in names_in(folder) and "report.html" in names_in(folder)


def test_episodes_that_are_kept_token_by_token_come_back_with_the_run(storage: str, config_of: Any) -> None:
    def files(algorithm: Any) -> TokenFiles:
        return TokenFiles(algorithm._run.folder.local)

    def keep(algorithm: Any) -> None:
        files(algorithm).write(algorithm.iteration + 1, [token_episode(iteration=algorithm.iteration + 1)])
        at(5, raising(CRASH))(algorithm)

    with pytest.raises(RuntimeError, match="went away"):
        run(config_of(storage), train=keep)
    found: list[list[int]] = []
    folder = join(storage, "counted")
    run(config_of(storage), resume=folder, train=lambda it: found.append([i for i, _ in files(it).paths()]))
    # the run itself has sampled nothing at iteration 1, whose samples are shown; 5 and 6 are after the checkpoint
    assert found[0] == [2, 3, 4]
    assert names_in(join(folder, "tokens")) == [f"{i:06d}.jsonl" for i in (2, 3, 4)]


@pytest.mark.parametrize("iteration", [3, 4])  # one that no checkpoint has, and one that has been saved
def test_a_notice_saves_the_last_iteration_once_and_keeps_the_score_of_the_best(
    config_of: Any, make_config: Any, tmp_path: Path, iteration: int
) -> None:
    evaluation = {"envs": make_config("GRPO").envs, "every": 2, "max_problems": 1}
    config, notice = config_of(str(tmp_path), evaluation, keep_best="evaluation/reward"), Notice(60.0)

    def give(_: Any) -> None:
        notice.names.append("SIGTERM")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, notice=notice, train=at(iteration, give))
    saved_at = {it["iteration"]: it["values"] for it in run_file(join(str(tmp_path), "counted"))["checkpoints"]}
    assert max(saved_at) == iteration
    assert all(("evaluation/reward" in values) == (number % 2 == 0) for number, values in saved_at.items())


def test_what_a_checkpoint_needs_is_there_while_the_run_goes(storage: str, config_of: Any) -> None:
    folder, seen = join(storage, "counted"), []

    def look(algorithm: Any) -> None:
        state = run_file(folder)
        files = [read_text(join(folder, state["checkpoint"], WEIGHTS)), read_text(join(folder, "config.yaml"))]
        seen.append((state["iteration"], rows_in(folder)[-1]["iteration"], all(files)))

    run(config_of(storage), train=lambda algorithm: look(algorithm) if algorithm.iteration in (2, 4) else None)
    assert seen == [(2, 2, True), (4, 4, True)]


def test_a_uri_names_no_checkpoint_before_its_files_are_there(
    config_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store that takes no files from iteration 3 on."""
    replace, storage = run_folder.replace_file, f"file://{tmp_path}/store"
    here = SimpleNamespace(iteration=0)

    def refuse(source: Path, target: str) -> None:
        if here.iteration >= 3:
            raise OSError("the store does not answer")
        replace(source, target)

    monkeypatch.setattr(run_folder, "replace_file", refuse)
    with pytest.raises(RuntimeError, match=r"the last checkpoint could not be written: the store does not answer; the"):
        run(config_of(storage), train=lambda algorithm: setattr(here, "iteration", algorithm.iteration + 1))
    state = run_file(join(storage, "counted"))
    assert state["iteration"] == 2
    said = capsys.readouterr().out
    assert "WARNING: the checkpoint could not be written: the store does not answer; " in said
    (kept,) = [line.rpartition(" ")[2] for line in said.splitlines() if "they stay in" in line]
    assert [row["iteration"] for row in rows_in(kept)] == [1, 2, 3, 4, 5, 6]
    shutil.rmtree(kept)
    monkeypatch.setattr(run_folder, "replace_file", replace)
    run(config_of(storage), resume="auto")
    assert [row["iteration"] for row in rows_in(join(storage, "counted"))] == [1, 2, 3, 4, 5, 6]


def test_a_resume_needs_nothing_of_this_machine(config_of: Any, tmp_path: Path) -> None:
    storage = f"file://{tmp_path}/store"
    with pytest.raises(RuntimeError):
        run(config_of(storage), train=at(3, raising(CRASH)))
    shutil.move(tmp_path / "store", tmp_path / "elsewhere")
    run(config_of(f"file://{tmp_path}/unused"), resume=f"file://{tmp_path}/elsewhere/counted")
    assert [row["iteration"] for row in rows_in(f"{tmp_path}/elsewhere/counted")] == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "store").exists() and not (tmp_path / "unused").exists()


# ---- claims


def test_two_runs_of_a_name_have_two_folders(storage: str, config_of: Any) -> None:
    first = Run(config_of(storage), None)
    second = Run(config_of(storage), None)
    try:
        assert (first.folder.path, second.folder.path) == (join(storage, "counted"), join(storage, "counted-2"))
    finally:
        first.discard_if_empty()
        second.discard_if_empty()
    assert names_in(storage) == []  # a start that fails leaves nothing


def test_a_run_that_goes_is_not_resumed_by_another(storage: str, config_of: Any, monkeypatch: Any) -> None:
    folder, refused = join(storage, "counted"), []

    def resume(algorithm: Any) -> None:
        for wanted in (folder, "auto"):
            with pytest.raises(
                ConfigError, match=r"is held by process \d+ on .*: wait for its end, or end it"
            ) as error:
                Run(config_of(storage), wanted)
            refused.append(str(error.value))

    run(config_of(storage), train=at(4, resume))
    assert len(refused) == 2


def test_a_run_whose_folder_was_taken_ends(storage: str, config_of: Any) -> None:
    def take(algorithm: Any) -> None:
        folder = algorithm._run.folder
        for name in names_in(join(folder.path, "claims")):
            run_folder.delete(join(folder.path, "claims", name))

    with pytest.raises(RuntimeError, match="was claimed by another process while this one stood still"):
        run(config_of(storage), train=at(3, take))
    assert run_file(join(storage, "counted"))["iteration"] == 2


# ---- which checkpoints stay


def test_checkpoints_of_earlier_sessions_count(storage: str, config_of: Any) -> None:
    folder = join(storage, "counted")
    with pytest.raises(RuntimeError):
        run(config_of(storage, keep=2), train=at(5, raising(CRASH)))
    assert saved(folder) == ["checkpoints/checkpoint_000002", "checkpoints/checkpoint_000004"]
    run(config_of(storage, keep=2), resume=folder)
    assert saved(folder) == ["checkpoints/checkpoint_000004", "checkpoints-2/checkpoint_000006"]


def test_the_best_checkpoint_stays(storage: str, config_of: Any, tiny_models: Any) -> None:
    held_out = {"every": 1, "envs": [{"id": "tgpo/Arithmetic-v0"}], "at_start": False, "max_problems": None}
    run(config_of(storage, evaluation=held_out, keep=1, every=None, every_minutes=None))
    folder = join(storage, "counted")
    measured = {row["iteration"]: row["evaluation/reward"] for row in rows_in(folder)}
    best = max(measured, key=lambda iteration: measured[iteration])
    assert best < 6 and saved(folder) == [f"checkpoints/checkpoint_{i:06d}" for i in (best, 6)]
    # it was made because it was the best: nothing else asked for it
    assert "time/checkpoint_s" in rows_in(folder)[best - 1]


@pytest.mark.parametrize(
    ("best", "staying"),
    [("reward", [3, 4, 5]), ("-reward", [1, 4, 5]), (None, [4, 5]), ("guidance/nll", [4, 5])],
)
def test_a_minus_keeps_the_lowest(best: str | None, staying: list[int]) -> None:
    state = RunState(1, [])
    for iteration, reward in enumerate([0.1, 0.2, 0.9, 0.3, 0.4], start=1):
        new = SavedCheckpoint(iteration, [f"checkpoints/{iteration}"], {}, {"reward": reward})
        state = state.with_checkpoint(new, 1, keep=2, best=Best(best) if best else None)
    assert [it.iteration for it in state.saved] == staying


def test_time_makes_checkpoints(config_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Iterations of 11 minutes, saved every 30. The clock of the day is not asked."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: clock.seconds))

    def pass_time(algorithm: Any) -> None:
        clock.seconds += 660.0

    storage = str(tmp_path)
    run(config_of(storage, every=None, keep=9), train=pass_time)
    assert saved(f"{storage}/counted") == ["checkpoints/checkpoint_000003", "checkpoints/checkpoint_000006"]
