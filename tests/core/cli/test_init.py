"""`tgpo-ray init`: what it writes passes its own tests and is a valid run; what is there already stays as it is."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.paths import ROOT
from tgpo_ray import cli
from tgpo_ray.config import AlgorithmConfig

FILES = {"README.md", "sort_words.py", "test_sort_words.py", "train.yaml", "tiny.yaml", ".rayignore"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here") / "deeper" / "my_task"
    assert cli.main(["init", str(folder)]) == 0
    return folder


def in_project(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m ...` in the project's folder, with this package and without what pytest has set."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)


def test_it_writes_a_project_and_says_how_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "task"
    assert cli.main(["init", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == FILES
    printed = capsys.readouterr().out.splitlines()
    assert {Path(line).name for line in printed[:-1]} == FILES
    assert printed[-1] == f"next: cd {folder} && python -m pytest; README.md says how it goes on"


def test_everything_among_the_package_data_is_written() -> None:
    templates = {path.name.removesuffix(".template") for path in (ROOT / "tgpo_ray" / "cli" / "project").iterdir()}
    assert templates == {name.removeprefix(".") for name in FILES}
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert data["tgpo_ray.cli"] == ["project/*"]  # without it a wheel has no project to write


def test_an_empty_folder_and_a_fresh_repository_are_filled(tmp_path: Path) -> None:
    empty, repository = tmp_path / "empty", tmp_path / "repository"
    for folder in (empty, repository / ".git"):
        folder.mkdir(parents=True)
    for folder in (empty, repository):
        assert cli.main(["init", str(folder)]) == 0
        assert (folder / "train.yaml").is_file()


@pytest.mark.parametrize(
    ("names", "held"), [(["train.yaml"], "train.yaml: "), (["b", "a", ".rayignore"], ".rayignore and 2 more: ")]
)
def test_a_folder_that_holds_something_is_refused_with_the_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], held: str
) -> None:
    for name in names:
        (tmp_path / name).write_text("mine")
    assert cli.main(["init", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"tgpo-ray init: {tmp_path} holds {held}a project is written into an empty folder")
    assert f"name another one, such as {tmp_path / 'project'}" in message
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "mine")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "task"
    path.write_text("mine")
    assert cli.main(["init", str(path)]) == 2
    assert f"{path} is a file: name a folder that is empty or not there yet" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_the_projects_own_tests_pass(project: Path) -> None:
    done = in_project(project, "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_its_python_is_formatted_and_has_no_lint(project: Path) -> None:
    settings = ["--isolated", "--line-length", "120", "."]
    for command in (["check", "--select", "E,W,F,I,B,UP,RUF", *settings], ["format", "--check", *settings]):
        done = in_project(project, "ruff", *command)
        assert done.returncode == 0, done.stdout


def test_its_runs_are_valid(project: Path, tiny_models: dict[str, str]) -> None:
    tiny = AlgorithmConfig.from_yaml(
        project / "tiny.yaml", [f"model.path={tiny_models['policy']}", f"teacher.path={tiny_models['teacher']}"]
    ).check()
    real = AlgorithmConfig.from_yaml(project / "train.yaml").check(files=False)  # its models are on a hub
    for config in (tiny, real):
        assert config.algorithm == "TGPO"
        ids = [env.id for env in (*config.envs, *config.evaluation.envs)]
        assert ids == ["sort_words:SortWords-v0"] * 2
        assert config.evaluation.envs[0].kwargs["held_out"] is True
    # where nothing is said of the storage, a job's results are where Ray's convention puts them
    assert "storage_path" not in (project / "tiny.yaml").read_text()


def test_two_keys_are_the_users(project: Path) -> None:
    lines = [line for line in (project / "train.yaml").read_text().splitlines() if "# yours" in line]
    assert [line.split()[0] for line in lines] == ["path:", "path:"]


def test_a_job_takes_code_and_tiny_models_along_and_leaves_results_and_large_files(tmp_path: Path) -> None:
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    folder = tmp_path / "task"
    assert cli.main(["init", str(folder)]) == 0
    for name in ("tiny_models/policy/model.safetensors", "runs/tiny/metrics.jsonl", "models/big.safetensors",
                 "wandb/run", "rows/data/reader.py", ".venv/bin/python", "weights.pt"):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    target = tmp_path / "package.zip"
    # as `ray job submit --working-dir .` does, whose exclusions start with the same defaults
    create_package(str(folder), target, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    names = {name for name in zipfile.ZipFile(target).namelist() if not name.endswith("/")}
    assert names == FILES | {"tiny_models/policy/model.safetensors", "rows/data/reader.py"}
