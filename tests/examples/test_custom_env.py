"""The example package: installed into a folder of its own, found by its entry point, checked, and trained on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import EXAMPLES, ROOT
from tgpo_ray.reporting.metrics import read_metrics

EXAMPLE = EXAMPLES / "custom_env"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for sys.path that holds the installed package alone."""
    pytest.importorskip("setuptools")
    source = tmp_path_factory.mktemp("source") / "custom_env"  # building leaves files beside the source
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def run(folder: Path, *arguments: str, path: Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(path)]), "COLUMNS": "200"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s)


def test_the_installed_package_is_listed_and_has_nothing_wrong(installed: Path, tmp_path: Path) -> None:
    listed = run(tmp_path, "tgpo_ray.cli", "env", "list", path=installed)
    lines = dict(line.split(maxsplit=1) for line in listed.stdout.splitlines())
    assert lines["SortDigits-v0"] == "Prompts such as `3*1*2=`, to which the right response is `123`.", listed.stderr
    assert "tgpo/Math-v0" in lines
    checked = run(tmp_path, "tgpo_ray.cli", "env", "check", "SortDigits-v0", "--kwargs", "num_digits=5", path=installed)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "nothing is wrong" in checked.stdout


def test_without_installing_it_the_module_in_the_id_is_enough(tmp_path: Path) -> None:
    arguments = ("tgpo_ray.cli", "env", "show", "sort_digits:SortDigits-v0", "-n", "1")
    shown = run(EXAMPLE, *arguments, path=tmp_path)  # the package lies in the working folder
    assert "--- problem 0" in shown.stdout and "--- gold response\n" in shown.stdout, shown.stderr
    unknown = run(tmp_path, "tgpo_ray.cli", "env", "show", "SortDigits-v0", path=tmp_path)
    assert unknown.returncode == 2
    assert "SortDigits-v0: no such environment is registered" in unknown.stderr


@pytest.mark.slow
def test_the_example_trains_with_real_actors(installed: Path, tiny_models: dict[str, str], tmp_path: Path) -> None:
    yaml = str(EXAMPLE / "train.yaml")
    overrides = (f"model.path={tiny_models['policy']}", "reporting.progress=false")
    done = run(tmp_path, "tgpo_ray.train", yaml, *overrides, path=installed, timeout_s=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = read_metrics(tmp_path / "runs" / "train" / "metrics.jsonl")
    assert [row["iteration"] for row in rows if "reward" in row] == [1, 2, 3]
    for row in rows:
        if "reward" in row:
            judged = sum(row[f"outcome/{name}"] for name in ("correct", "wrong", "unparsable"))
            assert judged == pytest.approx(1.0)
            assert row["optimizer/grad_norm"] >= 0.0
