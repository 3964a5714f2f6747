"""Table, CSV and page of a study, from runs that are written by hand."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.core.studies.study_folders import fill, make_study, write_run
from tgpo_ray.cli import main
from tgpo_ray.config import ConfigError, dump_yaml
from tgpo_ray.studies import (
    Outcome,
    StudyConfig,
    configs,
    folder_of,
    load_study,
    outcomes,
    points,
    refuse_changed,
    write_page,
)
from tgpo_ray.studies.comparison import metrics_of, rows_of
from tgpo_ray.studies.following import StudyCallback
from tgpo_ray.studies.outcomes import FAILED, FINISHED, RUNNING, STOPPED, TrialState, trial_folder, unfinished
from tgpo_ray.studies.running import most_at_once, prepare, run_point

ENDS = {"grpo": [0.2, 0.3, 0.25], "tgpo": [0.5, 0.55, 0.6]}


def found_in(study: StudyConfig) -> list[Outcome]:
    return outcomes(study, str(folder_of(study)))


def read(study: StudyConfig, name: str) -> list[dict[str, str]]:
    with (folder_of(study) / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Page(HTMLParser):
    """The texts of a page, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in ("script", "link", "img", "iframe", "object"):
            self.loads.append(tag)
        for name in ("src", "href", "xlink:href"):
            if name in found and not (found[name] or "").startswith("#"):
                self.loads.append(str(found[name]))
        if found.get("id"):
            self.ids.append(str(found["id"]))

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def test_the_table_has_means_and_paired_differences(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    fill(study, ENDS)
    grpo, tgpo = rows_of(study, found_in(study))
    assert (grpo.label, grpo.runs, grpo.is_baseline) == ("GRPO", "3 finished", True)
    ours = grpo.cells[study.metric].ours
    assert ours is not None and ours.mean == pytest.approx(0.25) and grpo.cells[study.metric].against is None
    against = tgpo.cells[study.metric].against
    assert against is not None and against.difference.mean == pytest.approx((0.3 + 0.25 + 0.35) / 3)
    assert (against.p_value, against.smallest_p, tgpo.cells[study.metric].adjusted_p) == (0.25, 0.25, 0.25)
    assert metrics_of(study, found_in(study)) == [study.metric, "evaluation/A/accuracy", "evaluation/B/accuracy"]


def test_an_average_is_the_mean_of_its_metrics(tmp_path: Path) -> None:
    study = make_study(
        tmp_path, averages={"both": ["evaluation/A/accuracy", "evaluation/B/accuracy"]}, metric="average/both"
    )
    fill(study, ENDS)
    ours = rows_of(study, found_in(study))[0].cells["average/both"].ours
    assert ours is not None and ours.mean == pytest.approx(0.25 * 0.75)


def test_a_failed_run_is_shown_and_in_no_mean_and_its_seed_in_no_pair(tmp_path: Path) -> None:
    study = make_study(tmp_path, variants={"grpo": make_study().variants["grpo"].model_dump(), "tgpo": {}})
    by_name = {point.name: point for point in points(study)}
    row = {"iteration": 10, "evaluation/accuracy": 0.5}
    for name in ("grpo-seed0", "grpo-seed1", "grpo-seed2", "tgpo-seed0"):
        write_run(study, by_name[name], [row])
    write_run(study, by_name["tgpo-seed1"], [{**row, "iteration": 4}], FAILED, "the run failed: <no> teacher")
    write_run(study, by_name["tgpo-seed2"], [{**row, "iteration": 5}], STOPPED, "ended by the scheduler")
    rows = rows_of(study, found_in(study))
    assert rows[1].runs == "1 finished, 1 failed, 1 stopped"
    cell = rows[1].cells[study.metric]
    assert cell.ours is not None and cell.ours.count == 1
    assert cell.against is not None and cell.against.difference.count == 1 and cell.against.p_value is None
    page = Page(write_page(study, found_in(study), folder_of(study)).read_text())
    assert "4 of 6 runs have finished." in page.text
    assert "tgpo-seed1 failed 4 the run failed: <no> teacher" in page.text
    runs = read(study, "runs.csv")
    assert [(run["state"], run["iterations"]) for run in runs if run["variant"] == "tgpo"] == [
        ("finished", "10"), ("failed", "4"), ("stopped", "5")
    ]  # fmt: skip
    assert [point.name for point in unfinished(study, str(folder_of(study)), retry=False)] == []
    assert [point.name for point in unfinished(study, str(folder_of(study)), retry=True)] == ["tgpo-seed1"]


def test_published_figures_stand_in_a_column_of_their_own(tmp_path: Path) -> None:
    variants = {
        "grpo": make_study().variants["grpo"].model_dump() | {"paper": {"evaluation/accuracy": 0.434}},
        "tgpo": {},
    }
    study = make_study(tmp_path, variants=variants)
    fill(study, ENDS)
    text = write_page(study, found_in(study), folder_of(study)).read_text()
    assert '<th class="paper">published: accuracy</th>' in text and '<td class="paper">0.434</td>' in text
    cell = rows_of(study, found_in(study))[0].cells[study.metric]
    assert cell.ours is not None and cell.ours.mean == pytest.approx(0.25)  # ours alone
    table = read(study, "table.csv")
    assert (table[0]["paper"], float(table[0]["mean"])) == ("0.434", pytest.approx(0.25))


def test_the_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    study = make_study(tmp_path, paper_figures=[2, 4, 5, 6], title="A <b>title</b>", notes=["x & y"])
    fill(study, ENDS)
    text = write_page(study, found_in(study), folder_of(study)).read_text()
    page = Page(text)
    assert page.loads == [] and "http" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    assert len(page.ids) == len(set(page.ids))
    assert "A <b>title</b>" in page.text and "Figure 2: a near and a far teacher" in page.text
    assert "Figure 4: the course of training" in page.text
    assert "Figure 6" not in page.text  # none of its metrics was written
    assert "0.6" in page.texts  # on the axis of the first plot: the scale holds every variant, not the first alone
    assert "+0.300" in page.text and "0.25 (0.25)" in page.text


def test_a_study_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    folder_of(study).mkdir(parents=True)
    assert "0 of 6 runs have finished." in Page(write_page(study, found_in(study), folder_of(study)).read_text()).text


def test_a_run_of_other_keys_is_not_taken_for_one_of_the_study(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    made = configs(study, "/runs")
    folder = Path(trial_folder(str(folder_of(study)), "tgpo-seed1"))
    folder.mkdir(parents=True)
    made["tgpo-seed1"].to_yaml(folder / "config.yaml")
    refuse_changed(study, made, str(folder_of(study)))
    changed = configs(make_study(tmp_path, set={"training.lr": 0.5}), "/elsewhere")
    with pytest.raises(ConfigError, match=r"tgpo-seed1: was started with other keys \(training\.lr 1e-06 -> 0\.5\)"):
        refuse_changed(study, changed, str(folder_of(study)))


# ---- trials without Tune


def test_how_many_runs_are_to_go_counts_those_that_tune_has_not_made_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(tmp_path, seeds=[0, 1])
    first, second, *_ = points(study)
    write_run(study, first, [{"iteration": 10, "evaluation/accuracy": 0.5}])
    write_run(study, second, [], FAILED, "no memory")
    trial = SimpleNamespace(custom_trial_name=first.name)
    StudyCallback(study, study).on_trial_complete(0, [trial], trial)
    assert capsys.readouterr().out == f"ended {first.name}; 2 to go\n"
    part = study.model_copy(update={"variants": {"grpo": study.variants["grpo"]}, "baseline": None})
    StudyCallback(part, study).on_trial_complete(0, [trial], trial)
    assert capsys.readouterr().out == f"ended {first.name}; 1 to go\n"
    assert "1 of 4 runs have finished." in Page((folder_of(study) / "report.html").read_text()).text  # of all variants


def place_of(study: StudyConfig) -> dict[str, Any]:
    point = points(study)[0]
    config = configs(study, str(folder_of(study) / "runs"))[point.name]
    return {"name": point.name, "values": {}, "config": json.dumps(config.to_dict())}


def test_a_trial_leaves_a_record_of_its_run(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    folder, place = str(folder_of(study)), place_of(study)
    seen: list[Any] = []

    def run(trial: Any) -> None:
        trial.note("/runs/a")
        seen.append((trial, TrialState.read(trial_folder(folder, place["name"]))))

    run_point(place, folder, "/work", run=run)
    assert seen[0][0].config["name"] == place["name"] and not seen[0][0].by_checkpoint
    assert seen[0][1] == TrialState(RUNNING, "", "/runs/a", 1)
    assert TrialState.read(trial_folder(folder, place["name"])) == TrialState(FINISHED, "", "/runs/a", 1)
    run_point(place, folder, "/work", run=run)
    assert len(seen) == 1  # a finished run is not run again


def test_a_trial_that_fails_says_why_and_the_next_attempt_counts(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    folder, place = str(folder_of(study)), place_of(study)

    def fail(trial: Any) -> None:
        raise RuntimeError("the run failed: no room")

    for attempts in (1, 2):
        with pytest.raises(RuntimeError):
            run_point(place, folder, "/work", run=fail)
        record = TrialState.read(trial_folder(folder, place["name"]))
        assert record == TrialState(FAILED, "the run failed: no room", "", attempts)


def test_a_changed_value_of_a_population_reaches_the_run(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    seen: list[Any] = []
    place = place_of(study) | {"values": {"training.lr": 0.125}}
    run_point(place, str(folder_of(study)), "/work", every=5, run=seen.append)
    assert seen[0].config["training"]["lr"] == 0.125 and seen[0].by_checkpoint
    assert seen[0].config["checkpointing"]["every"] == 5 and seen[0].config["name"] == place["name"]


@pytest.mark.parametrize(
    ("cluster", "limit", "expected"),
    [
        ({"CPU": 8.0}, None, 5),  # 8 / 1.5
        ({"CPU": 8.0}, 2, 2),
        ({"CPU": 1.0}, None, 1),  # one goes, and says what it lacks
        ({"CPU": 100.0}, None, 6),  # no more than there are
    ],
)
def test_as_many_trials_as_the_cluster_holds(cluster: dict[str, float], limit: int | None, expected: int) -> None:
    demands = [{"CPU": 1.5}, {"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 2.0}]
    assert most_at_once(demands, cluster, limit) == expected


def test_a_preparation_runs_where_its_file_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "write.py").write_text("import sys; open(sys.argv[1], 'a').write('x')")
    study = make_study(tmp_path, prepare=[{"creates": "out-{seed}", "run": "python write.py out-{seed}"}], seeds=[7])
    said: list[str] = []
    prepare(study, said.append)
    prepare(study, said.append)
    assert (tmp_path / "out-7").read_text() == "x" and said == ["prepares out-7: python write.py out-7"]
    study = make_study(tmp_path, prepare=[{"creates": "never", "run": "python write.py other"}])
    with pytest.raises(RuntimeError, match="has not written never"):
        prepare(study, said.append)


def test_a_preparation_joins_the_cluster_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "write.py").write_text(
        "import os, sys; open(sys.argv[1], 'w').write(os.environ.get('RAY_ADDRESS', 'a local one'))"
    )
    for name, address, expected in (("here", None, "a local one"), ("there", "10.0.0.1:6379", "10.0.0.1:6379")):
        steps = [{"creates": name, "run": f"python write.py {name}"}]
        prepare(make_study(tmp_path, prepare=steps, address=address), lambda line: None)
        assert (tmp_path / name).read_text() == expected


def test_the_plan_has_whole_names_what_is_reserved_and_what_would_be_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("x")
    prepared = [{"creates": "there", "run": "python a.py"}, {"creates": "out-{seed}", "run": "python b.py {seed}"}]
    grid = {"training.lr": [1e-4], "training.clip_low": [0.2]}
    data = make_study(tmp_path, seeds=[7], grid=grid, prepare=prepared).model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "study.yaml").write_text(dump_yaml(data))
    assert main(["study", "study.yaml", "--plan"]) == 0
    table, _, below = capsys.readouterr().out.rpartition("┘\n")
    cells = "".join(line.split("│")[1].strip() for line in table.splitlines() if line.startswith("│"))
    assert [each.name for each in points(load_study(tmp_path / "study.yaml"))] == cells.replace(
        "seed7", "seed7 "
    ).split()
    assert "GPUs" in table and "without" in table
    assert below.splitlines() == ["there: is there", "out-7: python b.py 7"]
    assert not (tmp_path / "small").exists()
