"""What a run survives: a full disk, a damaged checkpoint, an evaluation that raises; and how it is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.driver.counting_algorithm import WEIGHTS, at, raising, rewards, rows_in, run, run_file, saved
from tgpo_ray.cluster import join, names_in
from tgpo_ray.config import ConfigError
from tgpo_ray.driver.run import Run
from tgpo_ray.driver.run_folder import newest_run
from tgpo_ray.learners import CheckpointError, LearnerError

CRASH = RuntimeError("the machine went away")


# ---- what goes wrong


def fail_to_save(*iterations: int) -> Callable[[Any], None]:
    def fail(algorithm: Any) -> None:
        if algorithm.iteration in iterations:
            raise CheckpointError(algorithm._last, "learner rank 0: OSError: [Errno 28] No space left on device")

    return fail


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    storage: str, config_of: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = join(storage, "counted")
    run(config_of(storage, every=1, keep=9), save=fail_to_save(3))
    assert saved(folder) == [f"checkpoints/checkpoint_{i:06d}" for i in (1, 2, 4, 5, 6)]  # no half one
    assert [row.get("checkpoint/failures") for row in rows_in(folder)] == [None, None, 1.0, 1.0, 1.0, 1.0]
    said = capsys.readouterr().out
    assert "WARNING: the checkpoint of iteration 3 could not be written: " in said
    assert "No space left on device; " in said and "checkpoint_000002" in said and " stays the last one" in said


def test_a_disk_with_too_little_room_is_noticed_before_the_learners_write(
    config_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def free(path: str) -> int:
        return 1 if saved(str(tmp_path / "counted"))[-1:] == ["checkpoints/checkpoint_000002"] else 10**9

    monkeypatch.setattr("tgpo_ray.driver.checkpoints.free_bytes", free)
    asked: list[int] = []
    with pytest.raises(RuntimeError, match=r"no space left: 1B free, the last one took .*: make room"):
        run(config_of(str(tmp_path), every=1), save=lambda algorithm: asked.append(algorithm.iteration))
    assert asked == [1, 2]
    assert "WARNING: the checkpoint of iteration 3 could not be written: " in capsys.readouterr().out


def test_a_run_whose_last_checkpoint_fails_says_so(storage: str, config_of: Any) -> None:
    with pytest.raises(RuntimeError, match=r"No space left on device; the last whole one is .*checkpoint_000004"):
        run(config_of(storage), save=fail_to_save(6))
    assert run_file(join(storage, "counted"))["iteration"] == 4
    run(config_of(storage), resume="auto")
    assert run_file(join(storage, "counted"))["iteration"] == 6


@pytest.mark.parametrize("damage", ["cut", "missing", "unreadable"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(
    damage: str, config_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed = run(config_of(str(tmp_path / "undisturbed")))
    with pytest.raises(RuntimeError):
        run(config_of(str(tmp_path)), train=at(5, raising(CRASH)))
    file = tmp_path / "counted/checkpoints/checkpoint_000004" / WEIGHTS
    size = file.stat().st_size
    if damage == "missing":
        file.unlink()
    else:
        file.write_text("x" * (size - 1 if damage == "cut" else size))
    run(config_of(str(tmp_path), keep=9), resume="auto")
    said = capsys.readouterr().out
    reasons = {
        "cut": f"{WEIGHTS} has {size - 1} bytes, it was written with {size}",
        "missing": f"{WEIGHTS} is missing",
        "unreadable": "the checkpoint of iteration 4 cannot be loaded: learner rank 0, load: ",
    }
    assert reasons[damage] in said and "resumed at iteration 2 of 6" in said
    assert rewards(str(tmp_path / "counted")) == rewards(undisturbed.path)
    assert saved(str(tmp_path / "counted")) == [
        "checkpoints/checkpoint_000002", "checkpoints-2/checkpoint_000004", "checkpoints-2/checkpoint_000006"
    ]  # fmt: skip


def test_a_run_without_a_whole_checkpoint_is_refused(config_of: Any, tmp_path: Path) -> None:
    run(config_of(str(tmp_path)))
    for name in saved(str(tmp_path / "counted")):
        (tmp_path / "counted" / name / WEIGHTS).write_text("")
    with pytest.raises(ConfigError, match=r"has no whole checkpoint: .*iteration 6 is damaged: .* iteration 4 is"):
        Run(config_of(str(tmp_path)), "auto")
    assert "claims" not in names_in(str(tmp_path / "counted"))


def test_no_checkpoint_that_loads_ends_the_resume_with_the_newest_ones_error(config_of: Any, tmp_path: Path) -> None:
    run(config_of(str(tmp_path)))
    for name in saved(str(tmp_path / "counted")):
        file = tmp_path / "counted" / name / WEIGHTS
        file.write_text("x" * file.stat().st_size)
    with pytest.raises(LearnerError, match="learner rank 0, load: invalid literal"):
        run(config_of(str(tmp_path)), resume="auto")


def test_a_half_checkpoint_of_a_dead_session_is_deleted_and_its_folder_not_used_again(
    config_of: Any, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError):
        run(config_of(str(tmp_path)), train=at(3, raising(CRASH)))
    half = tmp_path / "counted/checkpoints-2/checkpoint_000004"  # session 2 died in its first checkpoint
    half.mkdir(parents=True)
    (half / WEIGHTS).write_text("1")
    run(config_of(str(tmp_path), keep=9), resume="auto")
    assert saved(str(tmp_path / "counted")) == [
        "checkpoints/checkpoint_000002", "checkpoints-3/checkpoint_000004", "checkpoints-3/checkpoint_000006"
    ]  # fmt: skip
    assert run_file(str(tmp_path / "counted"))["session"] == 3


# ---- evaluations that fail


def test_an_evaluation_that_fails_is_counted_and_the_run_goes_on(
    config_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = {"every": 2, "envs": [{"id": "tgpo/Arithmetic-v0"}], "max_problems": None}
    run(config_of(str(tmp_path), evaluation=held_out), evaluate=at(4, raising(FileNotFoundError("held_out.jsonl"))))
    rows = {row["iteration"]: row for row in rows_in(str(tmp_path / "counted"))}
    assert {i: rows[i].get("evaluation/failures") for i in (0, 2, 4, 5, 6)} == {0: 0.0, 2: 0.0, 4: 1.0, 5: None, 6: 1.0}
    assert "evaluation/reward" in rows[6] and "evaluation/reward" not in rows[4]
    assert "WARNING: the evaluation of iteration 4 failed: held_out.jsonl" in capsys.readouterr().out


def test_an_evaluation_that_fails_ends_the_run_if_asked_after_a_checkpoint(storage: str, config_of: Any) -> None:
    held_out = {"every": 3, "envs": [{"id": "tgpo/Arithmetic-v0"}], "max_problems": None, "on_failure": "end"}
    config = config_of(storage, evaluation=held_out, every=None)
    with pytest.raises(FileNotFoundError, match=r"held_out\.jsonl"):
        run(config, evaluate=at(3, raising(FileNotFoundError("held_out.jsonl"))))
    folder = join(storage, "counted")
    assert run_file(folder)["iteration"] == 3
    run(config, resume=folder)
    assert [row["iteration"] for row in rows_in(folder)] == [0, 1, 2, 3, 4, 5, 6]


# ---- resuming


def test_changed_keys_are_shown(config_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError):
        run(config_of(str(tmp_path), lr=1e-5), train=at(3, raising(CRASH)))
    run(config_of(str(tmp_path), lr=1e-3, keep_best=None), resume="auto")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("changed since")]
    assert said == [
        "changed since the last session: training.lr: 1e-05 -> 0.001",
        "changed since the last session: checkpointing.keep_best: evaluation/reward -> null",
    ]


def test_a_model_that_does_not_fit_is_refused_before_anything_starts(
    config_of: Any, tmp_path: Path, tiny_models: Any
) -> None:
    run(config_of(str(tmp_path)))
    other = config_of(str(tmp_path)).models(path=tiny_models["teacher"])
    with pytest.raises(ConfigError, match=r"model.path: .*teacher has .*hidden 48 \(checkpoint: 64\).* does not fit"):
        Run(other, "auto")
    engine = config_of(str(tmp_path)).learners(engine="deepspeed", zero_stage=2, num_learners=2)
    with pytest.raises(ConfigError, match=r"learners: they have engine deepspeed \(checkpoint: torch\), ranks of ZeRO"):
        Run(engine, "auto")
    adapters = config_of(str(tmp_path)).models(lora={"rank": 4})
    with pytest.raises(ConfigError, match=r"model.lora: these adapters have rank 4 \(checkpoint: 0\): the checkpoint"):
        Run(adapters, "auto")
    Run(config_of(str(tmp_path)), "auto").close()  # those that were refused hold nothing


def test_auto_starts_and_goes_on(storage: str, config_of: Any) -> None:
    folder = join(storage, "counted")
    with pytest.raises(RuntimeError):  # there is none: a new run
        run(config_of(storage), resume="auto", train=at(3, raising(CRASH)))
    result = run(config_of(storage), resume="auto")
    assert result.path == folder and run_file(folder)["session"] == 2
    again = run(config_of(storage), resume="auto")  # it is complete: nothing is left to do
    assert again.path == folder and names_in(storage) == ["counted"]


def test_auto_takes_the_newest_run_with_a_checkpoint(config_of: Any, tmp_path: Path) -> None:
    for name, config, checkpoint in (("a", "a", True), ("a-2", "a", True), ("a-3", "a", False), ("a-9", "a-9", True)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(f"name: {config}\n")
        if checkpoint:
            (folder / "run.json").write_text("{}")
    assert newest_run(str(tmp_path), "a") == str(tmp_path / "a-2")
    assert newest_run(str(tmp_path), "a-9") == str(tmp_path / "a-9")
    assert newest_run(str(tmp_path), "b") is None and newest_run(str(tmp_path / "nowhere"), "a") is None


def test_run_json_that_cannot_be_read_is_named(tmp_path: Path, config_of: Any) -> None:
    (tmp_path / "counted").mkdir()
    (tmp_path / "counted/run.json").write_text(json.dumps({"session": 1}))
    with pytest.raises(ConfigError, match=r"cannot be continued: its run\.json cannot be read \(KeyError"):
        Run(config_of(str(tmp_path)), str(tmp_path / "counted"))
