"""What has changed since answers were sampled: the set, its right answers, which prompts are too long, other models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.core.suites.answering_server import AnsweringServer
from tests.core.suites.served_suites import NUM_ROWS, evaluated, math_suite
from tests.core.suites.test_answers_file import HEADER, row
from tgpo_ray import cli
from tgpo_ray.config import ConfigError
from tgpo_ray.suites import evaluate_suite, open_suite, rescore_suite
from tgpo_ray.suites.answers_file import AnswersFile, read_answers, read_header
from tgpo_ray.suites.suite_config import CandidateConfig
from tgpo_ray.suites.tables import score_table
from tgpo_ray.suites.work import opened_file

pytestmark = pytest.mark.usefixtures("no_worker_outlives_its_module")


def test_other_right_answers_are_not_taken_for_the_old_ones(
    server: AnsweringServer, rows: Path, tmp_path: Path
) -> None:
    suite = math_suite(tmp_path, rows)
    (before,) = evaluated(suite, tmp_path / "out", server.url)
    wrong = [{"problem": f"{i} + 1", "answer": "1000"} for i in range(NUM_ROWS)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in wrong))
    with pytest.raises(ValueError, match=r"holds verdicts of other options \(data_sha256.*with --rescore"):
        evaluated(suite, tmp_path / "out", server.url)
    (after,) = rescore_suite(suite, suite.chosen([server.url]), tmp_path / "out", lambda line: None)
    assert before.sets["sums"].accuracy.mean > 0 == after.sets["sums"].accuracy.mean


def test_another_column_of_right_answers_is_another_set_of_them(
    server: AnsweringServer, rows: Path, tmp_path: Path
) -> None:
    both = [{"problem": f"{i} + 1", "answer": str(i + 1), "other": "1000"} for i in range(NUM_ROWS)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in both))
    evaluated(math_suite(tmp_path, rows), tmp_path / "out", server.url)
    (tmp_path / "copy.jsonl").write_text(rows.read_text())
    evaluated(math_suite(tmp_path, tmp_path / "copy.jsonl"), tmp_path / "out", server.url)  # a copy is the same
    with pytest.raises(ValueError, match=r"data_sha256.*with --rescore"):
        evaluated(math_suite(tmp_path, rows, columns={"answer": "other"}), tmp_path / "out", server.url)


def test_a_suite_whose_sets_an_override_names_keeps_its_means(suite_file: Path) -> None:
    env = '{"id": "tgpo/Arithmetic-v0", "name": "mine", "kwargs": {"operation": "add"}}'
    for name, override in ((str(suite_file), f"evaluation.envs=[{env}]"), ("paper", f"evaluation.envs=[{env}]")):
        assert [it.label for it in open_suite(name, [override]).evaluation.envs] == ["mine"]


def test_answers_of_an_earlier_version_know_no_hash_of_the_file(tmp_path: Path) -> None:
    old = {"set": "s", "sampling": {"seed": 0}, "scoring": {"require_box": True}}
    AnswersFile(tmp_path / "s.jsonl", old).close()
    AnswersFile(tmp_path / "s.jsonl", old | {"scoring": {"require_box": True, "data_sha256": "a"}}).close()


def test_another_prompt_is_said_to_be_one(server: AnsweringServer, rows: Path, tmp_path: Path) -> None:
    evaluated(math_suite(tmp_path, rows), tmp_path / "out", server.url)
    with pytest.raises(ValueError, match=r"holds answers to another prompt of problem \d"):
        evaluated(math_suite(tmp_path, rows, prompt="think"), tmp_path / "out", server.url)


def test_a_set_that_has_lost_a_problem_is_named(server: AnsweringServer, rows: Path, tmp_path: Path) -> None:
    suite = math_suite(tmp_path, rows)
    evaluated(suite, tmp_path / "out", server.url)
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=f"sums, problem {NUM_ROWS - 1}: the set has no such problem now"):
        rescore_suite(suite, suite.chosen([server.url]), tmp_path / "out", lambda line: None)


def test_scoring_again_goes_by_the_last_limit_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    for out in ([1], [], [0, 2]):
        with opened_file(path, HEADER | {"left_out": out}, {}) as file:
            if len(out) == 1:
                file.append(row(0))
            assert list(file.done) == [0]
        assert read_header(path)["left_out"] == out
    assert [it.problem for it in read_answers(path)] == [0]


def test_every_model_is_asked_for_before_the_first_is_sampled(
    server: AnsweringServer, suite_file: Path, tmp_path: Path
) -> None:
    suite = open_suite(str(suite_file))
    lacking = CandidateConfig(name="second", url=server.url, served_model="none")
    with pytest.raises(ValueError, match="has no model 'none'"):
        evaluate_suite(suite, [CandidateConfig(name="first", url=server.url), lacking], tmp_path, lambda line: None)
    assert server.asked == []


def test_a_models_table_outlives_the_error_of_the_next(
    server: AnsweringServer, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fail_after = NUM_ROWS * 5 + 3
    names = [CandidateConfig(name=name, url=server.url) for name in ("first", "second")]
    models = json.dumps([it.model_dump(exclude_defaults=True) for it in names])
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", "--suite", str(suite_file), f"candidates={models}", "--to", "out"]) != 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "first" in table and "second" not in table


def test_a_table_has_the_k_of_the_answers(server: AnsweringServer, suite_file: Path, tmp_path: Path) -> None:
    evaluated(open_suite(str(suite_file)), tmp_path, server.url)
    other = open_suite(str(suite_file), ["evaluation.num_samples=8", "evaluation.envs.0.num_samples=8"])
    figures = rescore_suite(other, other.chosen([server.url]), tmp_path, lambda line: None)
    assert [line[1] for line in score_table(other, figures)[1][:2]] == ["4", "1"]


def test_a_folder_of_a_model_may_have_a_sign_of_equality(suite_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--suite", str(suite_file), "runs/lr=1e-5/export"]) == 2
    assert "runs/lr=1e-5/export" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("only", ["", ","])
def test_no_set_at_all_is_not_every_set(suite_file: Path, only: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--suite", str(suite_file), "--only", only, "model"]) == 2
    assert "--only: needs at least one name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("means={both: [small, lagre]}", "means.both: no set is called 'lagre'; did you mean 'large'"),
        ("means={all sets: [small]}", "means.all sets: is the mean that the table has anyway"),
        ("published={A: {source: x, scores: {smal: 1.0}}}", "published.A.scores: no set is called 'smal'"),
    ],
)
def test_names_of_sets_are_known(suite_file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_suite(str(suite_file), [override])


def test_a_set_that_is_asked_for_is_not_left_out(suite_file: Path, tmp_path: Path) -> None:
    places = tmp_path / "places.yaml"
    places.write_text("small: null\n")
    with pytest.raises(ConfigError, match="--only: small is null in"):
        open_suite(str(suite_file), places=str(places), only=["small", "large"])


def test_two_sets_have_two_files(suite_file: Path) -> None:
    names = ["evaluation.envs.0.name=a/b", "evaluation.envs.1.name=a_b", "means={}", "published={}"]
    with pytest.raises(ConfigError, match=r"another set's answers are in a_b\.jsonl, too"):
        open_suite(str(suite_file), names).check(files=False)


@pytest.mark.parametrize("text", ["hello", "\n\nhello", "{}"])
def test_nothing_is_cut_off_a_file_of_another_kind(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="is no file of answers"):
        AnswersFile(path, HEADER)
    assert path.read_text() == text
