"""The session of docs/cluster.md: from an empty folder to a job's result; then a killed driver, and how it goes on."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from benchmarks.faults import IGNORED
from tests.job_cluster import START, JobCluster, short_home, started_head
from tests.paths import ROOT
from tests.waiting import eventually
from tgpo_ray.reporting.metrics import read_metrics

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

PAGE = ROOT / "docs" / "cluster.md"
NOT_COMPARED = (*IGNORED, "sampler/gap")  # which a process measures in its own second iteration


def commands(heading: str) -> list[str]:
    """The commands of the first console block below a heading of the page."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    block = re.search(r"```console\n(.*?)```", rest, flags=re.DOTALL)
    assert block, f"docs/cluster.md has no commands below {heading!r}"
    return [line.removeprefix("$ ") for line in block[1].splitlines()]


class Terminal:
    """Somebody who types commands: `cd` and `export` last, and `ray start --head` starts a cluster for the rest."""

    def __init__(self, folder: Path, home: Path, environment: Mapping[str, str], closing: ExitStack) -> None:
        self.folder, self.home, self.environment, self.closing = folder, home, dict(environment), closing
        self.cluster: JobCluster | None = None

    def type(self, line: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(line)
        done = subprocess.CompletedProcess(words, 0, "", "")
        if words[0] == "cd":
            self.folder = self.folder / words[1]
        elif words[0] == "export":
            self.environment |= dict(word.split("=", 1) for word in words[1:])
        elif line == START:
            self.cluster = self.closing.enter_context(started_head(self.home, self.environment))
            self.environment["RAY_API_SERVER_ADDRESS"] = self.cluster.dashboard  # the page's is port 8265
        else:
            assert self.cluster or words[:2] != ["ray", "job"], "no cluster of this test: ray would look for another"
            done = subprocess.run(
                words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=600
            )
            print(f"$ {line}\n{done.stdout}{done.stderr}", flush=True)
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done

    def results(self, name: str) -> Path:
        return self.home / "ray_results" / name


@pytest.fixture(scope="module")
def terminal(clean_environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A terminal in an empty folder, with an empty home."""
    folder = tmp_path_factory.mktemp("empty")
    with short_home(clean_environment) as (home, environment), ExitStack() as closing:
        environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}  # in place of an installed package
        yield Terminal(folder, home, environment, closing)


def test_from_an_empty_folder_to_a_result(terminal: Terminal) -> None:
    *lines, submit = commands("A first job, from an empty folder")
    assert submit.startswith("ray job submit")
    for line in lines:
        terminal.type(line)
    done = terminal.type(submit)
    folder = terminal.results("sort_words_tiny")
    assert "Job 'first' succeeded" in printed_by(done)
    assert f"done: {folder}" in done.stdout
    assert {"run.json", "config.yaml", "metrics.jsonl", "report.html"} <= {path.name for path in folder.iterdir()}
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [0, *range(1, 21)]
    assert rows[-1]["evaluation/accuracy"] > rows[0]["evaluation/accuracy"] + 0.2  # the teacher has shown it the way


def test_a_client_without_the_mode_is_refused_by_ray(terminal: Terminal) -> None:
    assert terminal.cluster, "the first test starts the cluster"
    environment = {key: value for key, value in terminal.environment.items() if key != "RAY_AUTH_MODE"}
    line = ["ray", "job", "list"]
    done = subprocess.run(line, cwd=terminal.folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "Unauthorized: Missing authentication token" in done.stdout + done.stderr


def test_a_killed_driver_is_continued_to_the_figures_of_the_undisturbed_run(terminal: Terminal) -> None:
    submit, status, _, again = commands("Kill it, and go on")
    terminal.type(submit)
    folder = terminal.results("again")
    assert eventually(lambda: len(rows_of(folder)) > 8, 300.0), "the run has not come to iteration 8"
    driver = driver_of(terminal.home, "name=again")
    driver.send_signal(signal.SIGKILL)
    assert eventually(lambda: "Job 'again' failed" in printed_by(terminal.type(status)), 60.0)
    assert len(rows_of(folder)) < 21, "the run had ended before its driver was killed"
    done = terminal.type(again)
    assert "Job 'again-2' succeeded" in printed_by(done)
    assert f"done: {folder}" in done.stdout  # in the folder of the run that was killed
    undisturbed, continued = (figures(terminal.results(name)) for name in ("sort_words_tiny", "again"))
    assert len(continued) == len(undisturbed) == 21
    for there, here in zip(undisturbed, continued, strict=True):
        different = {name: (there.get(name), here.get(name)) for name in there.keys() | here.keys()}
        assert not {name: pair for name, pair in different.items() if pair[0] != pair[1]}


def printed_by(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


def rows_of(folder: Path) -> list[dict[str, float]]:
    path = folder / "metrics.jsonl"
    return read_metrics(path) if path.is_file() else []


def figures(folder: Path) -> list[dict[str, float]]:
    """Every row's metrics, but for those of time and of what was repeated."""
    return [
        {name: value for name, value in row.items() if not name.startswith(NOT_COMPARED)} for row in rows_of(folder)
    ]


def driver_of(home: Path, argument: str) -> psutil.Process:
    """The driver whose command has the argument, among the processes of the cluster in `home`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended, or is another user's
            if argument in process.cmdline() and process.environ().get("HOME") == str(home):
                found.append(process)
    (driver,) = found
    return driver
