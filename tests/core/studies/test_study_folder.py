"""What a study does with what stands in its folder, and the order in which it checks, prepares and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.core.studies.study_folders import fill, make_study
from tgpo_ray.cli import main
from tgpo_ray.cluster import Claim
from tgpo_ray.config import ConfigError, dump_yaml
from tgpo_ray.studies import configs, folder_of, outcomes, points, refuse_changed
from tgpo_ray.studies.outcomes import TrialState, trial_folder

MEMBERS: dict[str, Any] = {
    "pbt": {"every": 2, "mutate": {"guidance.weight": {"uniform": [0.1, 1.0]}}},
    "num_samples": 2,
    "variants": {"tgpo": {}},
    "baseline": None,
    "seeds": [0],
}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """command(**fields) -> the exit status of `tgpo-ray study` on a study that prepares the file `made`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "write.py").write_text("open('made', 'w').write('x')")
    prepared = {"prepare": [{"creates": "made", "run": "python write.py"}]}

    def run(*arguments: str, **fields: Any) -> int:
        study = make_study(tmp_path, **prepared, **fields)
        (tmp_path / "small.yaml").write_text(dump_yaml(study.model_dump(mode="json", exclude_defaults=True)))
        return main(["study", "small.yaml", *arguments])

    return run


def test_a_folder_that_was_moved_keeps_its_results(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    fill(study, {"grpo": [0.2, 0.3, 0.4], "tgpo": [0.5, 0.6, 0.7]})
    folder_of(study).rename(tmp_path / "moved")
    moved = outcomes(make_study(tmp_path, name="moved"), str(tmp_path / "moved"))
    assert [run.last("evaluation/accuracy") for run in moved if run.point.variant == "tgpo"] == [0.5, 0.6, 0.7]


@pytest.mark.parametrize("text", ["", '{"state": "finished", "other": 1}', "[1, 2"])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    study = make_study(tmp_path)
    folder = Path(trial_folder(str(folder_of(study)), "tgpo-seed1"))
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(text)
    with pytest.raises(ConfigError, match=r"tgpo-seed1/trial\.json is damaged .*: delete it, and the run begins anew"):
        TrialState.read(str(folder))


def test_a_member_that_took_over_anothers_values_is_taken_up_again(tmp_path: Path) -> None:
    study = make_study(tmp_path, **MEMBERS)
    made = configs(study, "/runs")
    first, second = (point.name for point in points(study))
    folder = Path(trial_folder(str(folder_of(study)), second))
    folder.mkdir(parents=True)
    made[first].to_yaml(folder / "config.yaml")
    refuse_changed(study, made, str(folder_of(study)))
    other = configs(make_study(tmp_path, **MEMBERS, set={"training.lr": 0.5}), "/runs")
    with pytest.raises(ConfigError, match=r"was started with other keys \(training\.lr"):
        refuse_changed(study, other, str(folder_of(study)))


def test_keys_are_checked_before_anything_is_prepared(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(variants={"tgpo": {"set": {"guidance.wieght": 1.0}}}, baseline=None) == 2
    assert "did you mean 'guidance.weight'?" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_a_second_command_prepares_nothing(command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(make_study(tmp_path))
    folder.mkdir(parents=True)
    claim = Claim(str(folder))
    try:
        assert command() == 2
    finally:
        claim.release()
    assert "wait for its end, or give the study another `name`" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_what_was_prepared_is_checked_before_ray_starts(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 2
    assert (tmp_path / "made").exists()
    assert "model.path" in capsys.readouterr().err
