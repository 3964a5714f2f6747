"""Where results go: beside the user's files, in a Ray job never in a copy that Ray deletes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgpo_ray.algorithms import TGPOConfig
from tgpo_ray.config import AlgorithmConfig, ConfigError
from tgpo_ray.config.working_folder import JOB_VARIABLE

COPY = "session_2026/runtime_resources/working_dir_files/_ray_pkg_1"


def problems(**checkpointing: object) -> list[str]:
    config = TGPOConfig().environment("tgpo/Math-v0").models(path="a").teachers(path="b")
    return [line for line in config.checkpointing(**checkpointing).problems(files=False) if "checkpointing" in line]


@pytest.fixture
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB_VARIABLE, "{}")


@pytest.fixture
def in_a_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / COPY
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def resolved(config: AlgorithmConfig) -> str | None:
    return config.resolved(gpus=False).checkpointing.storage_path


def test_results_are_beside_the_users_files() -> None:
    assert resolved(TGPOConfig()) == "runs"
    assert resolved(TGPOConfig().checkpointing(storage_path="mine")) == "mine"
    assert problems(storage_path="mine") == []


def test_in_a_job_they_are_in_the_home_folder(in_a_job: None) -> None:
    assert resolved(TGPOConfig()) == "~/ray_results"
    assert problems() == problems(storage_path="/mnt/runs") == problems(storage_path="s3://bucket/runs") == []


def test_a_copy_of_rays_is_known_without_a_job(in_a_copy: Path) -> None:
    assert resolved(TGPOConfig()) == "~/ray_results"
    (problem,) = problems(storage_path=str(in_a_copy / "runs"))
    assert problem.endswith(
        "is in a copy of the working folder, which Ray deletes: write a URI or an absolute path of your own, or delete "
        "the key, which means ~/ray_results"
    )


def test_a_relative_path_in_a_job_is_refused(in_a_job: None) -> None:
    (problem,) = problems(storage_path="runs")
    assert problem == (
        "checkpointing.storage_path: 'runs' is relative, and a Ray job runs in a copy that Ray deletes: write a URI or "
        "an absolute path of your own, or delete the key, which means ~/ray_results"
    )


def test_the_configuration_in_a_runs_folder_is_read_behind_a_uri(tmp_path: Path) -> None:
    config = TGPOConfig().environment("tgpo/Math-v0").models(path="a").teachers(path="b")
    config.name = "mine"
    config.to_yaml(tmp_path / "config.yaml")
    assert AlgorithmConfig.from_yaml(f"file://{tmp_path}/config.yaml").to_dict() == config.to_dict()
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        AlgorithmConfig.from_yaml(f"file://{tmp_path}/nowhere.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: Unrecognized filesystem type in URI: nowhere"):
        AlgorithmConfig.from_yaml("nowhere://x.yaml")


@pytest.mark.parametrize("name", ["evaluation/accuracy", "-loss/sft", "evaluation/Math/reward", "evaluation/pass_at_8"])
def test_any_metric_may_choose_the_best_checkpoint(name: str) -> None:
    assert problems(keep_best=name) == []


@pytest.mark.parametrize("name", ["evaluation/rewards", "accuracy", "", "-", "evaluation/Math/rewards"])
def test_a_name_that_no_run_writes_is_refused(name: str) -> None:
    (problem,) = problems(keep_best=name)
    assert problem.startswith(f"checkpointing.keep_best: no metric has the name {name!r}: write one of docs/metrics.md")
