"""A suite from its file to its table: served models, resuming, verdicts given again, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.core.suites.answering_server import AnsweringServer
from tests.core.suites.served_suites import NUM_ROWS, evaluated, math_suite
from tgpo_ray import cli
from tgpo_ray.config import ConfigError
from tgpo_ray.suites import open_suite, rescore_suite, write_tables
from tgpo_ray.suites.answers_file import read_answers, read_header, replace_answers
from tgpo_ray.suites.tables import notes
from tgpo_ray.suites.work import sets_of


def test_a_served_model_answers_every_problem_once_and_its_figures_are_counted(
    server: AnsweringServer, suite_file: Path, tmp_path: Path
) -> None:
    suite = open_suite(str(suite_file))
    (model,) = evaluated(suite, tmp_path / "out", f"url:{server.url}")
    assert len(server.asked) == NUM_ROWS * 5
    body = server.asked[0][1]
    assert (body["temperature"], body["max_tokens"], body["top_k"]) == (0.6, 2048, 0)
    small = model.sets["small"]
    path = tmp_path / "out" / model.label / "small.jsonl"
    right = [sum(it.outcome == "correct" for it in row.answers) / 4 for row in read_answers(path)]
    assert small.accuracy.mean == pytest.approx(sum(right) / NUM_ROWS)
    assert 0.0 < small.accuracy.low < small.accuracy.mean < small.accuracy.high < 1.0
    assert small.pass_at[4].mean == pytest.approx(sum(share > 0 for share in right) / NUM_ROWS)
    assert (small.num_samples, model.sets["large"].num_samples, small.tokens.mean) == (4, 1, 7.0)
    assert model.means[0].accuracy.mean == pytest.approx((small.accuracy.mean + model.sets["large"].accuracy.mean) / 2)


def test_what_was_answered_before_an_error_is_not_asked_again(
    server: AnsweringServer, suite_file: Path, tmp_path: Path
) -> None:
    suite = open_suite(str(suite_file), ["env_runners.max_num_seqs=2"])
    server.fail_after = 30
    with pytest.raises(RuntimeError, match="enough"):
        evaluated(suite, tmp_path, server.url)
    (path,) = tmp_path.glob("*/small.jsonl")
    kept = {row.problem: row for row in read_answers(path)}
    assert 0 < len(kept) < NUM_ROWS
    before, server.fail_after = len(server.asked), None
    (model,) = evaluated(suite, tmp_path, server.url)
    assert len(server.asked) - before == NUM_ROWS * 5 - 4 * len(kept)
    assert {row.problem: row for row in read_answers(path) if row.problem in kept} == kept
    assert model.sets["small"].num_problems == NUM_ROWS
    again = len(server.asked)
    assert evaluated(suite, tmp_path, server.url)[0].sets["small"].accuracy == model.sets["small"].accuracy
    assert len(server.asked) == again


def test_answers_of_another_temperature_or_model_are_not_mixed(
    server: AnsweringServer, suite_file: Path, tmp_path: Path
) -> None:
    evaluated(open_suite(str(suite_file)), tmp_path, server.url)
    with pytest.raises(ValueError, match=r"not mixed \(temperature: 0\.6 there, 1\.0 here\)"):
        evaluated(open_suite(str(suite_file), ["evaluation.temperature=1.0"]), tmp_path, server.url)
    server.models = ["subtracter"]
    with pytest.raises(ValueError, match=r'model\.served: "adder" there, "subtracter" here'):
        evaluated(open_suite(str(suite_file)), tmp_path, server.url)


@pytest.mark.usefixtures("no_worker_outlives_its_module")
def test_a_changed_verifier_scores_again_without_a_model(server: AnsweringServer, rows: Path, tmp_path: Path) -> None:
    plain = math_suite(tmp_path, rows)
    (first,) = evaluated(plain, tmp_path / "out", server.url)
    assert 0.0 < first.sets["sums"].accuracy.mean < 1.0
    asked = len(server.asked)
    tolerant = math_suite(tmp_path, rows, tolerance=1.0)  # one off is right now
    with pytest.raises(ValueError, match=r"tolerance: null there, 1\.0 here\): score its answers again with --rescore"):
        evaluated(tolerant, tmp_path / "out", server.url)
    (again,) = rescore_suite(tolerant, tolerant.chosen([server.url]), tmp_path / "out", lambda line: None)
    assert again.sets["sums"].accuracy.mean == 1.0
    (path,) = (tmp_path / "out").glob("*/sums.jsonl")
    assert read_header(path)["scoring"]["tolerance"] == 1.0
    (resumed,) = evaluated(tolerant, tmp_path / "out", server.url)  # and goes on with the new verdicts
    assert resumed.sets["sums"].accuracy == again.sets["sums"].accuracy
    assert len(server.asked) == asked


@pytest.mark.usefixtures("no_worker_outlives_its_module")
def test_verdicts_of_another_prompt_are_refused(server: AnsweringServer, rows: Path, tmp_path: Path) -> None:
    suite = math_suite(tmp_path, rows)
    evaluated(suite, tmp_path / "out", server.url)
    rows.write_text("".join(json.dumps({"problem": f"{i} + 2", "answer": str(i + 2)}) + "\n" for i in range(NUM_ROWS)))
    with pytest.raises(ValueError, match=r"sums, problem \d+: its answers are to another prompt than the set has now"):
        rescore_suite(suite, suite.chosen([server.url]), tmp_path / "out", lambda line: None)
    with pytest.raises(ValueError, match=r"holds answers to another prompt of problem \d+"):
        evaluated(suite, tmp_path / "out", server.url)


@pytest.mark.usefixtures("no_worker_outlives_its_module")
def test_a_chat_is_asked_as_messages_and_its_thought_belongs_to_the_response(
    server: AnsweringServer, rows: Path, tmp_path: Path
) -> None:
    suite = math_suite(tmp_path, rows, "evaluation.max_problems=3", prompt="chat", format_gate=True)
    (model,) = evaluated(suite, tmp_path / "out", server.url)
    assert {path for path, _ in server.asked} == {"/v1/chat/completions"}
    (path,) = (tmp_path / "out").glob("*/sums.jsonl")
    texts = [it.text for row in read_answers(path) for it in row.answers]
    assert all(text.startswith("<think>\nI add.\n</think>\n\n\\boxed{") for text in texts)
    assert model.sets["sums"].unparsable == 0.0
    rescore_suite(suite, suite.chosen([server.url]), tmp_path / "out", lambda line: None)


def test_rescoring_needs_answers(server: AnsweringServer, suite_file: Path, tmp_path: Path) -> None:
    suite = open_suite(str(suite_file))
    with pytest.raises(ValueError, match=r"--rescore: there is no .*small\.jsonl: evaluate .* first"):
        rescore_suite(suite, suite.chosen([server.url]), tmp_path)


def test_the_command_writes_the_table_as_markdown_csv_and_html(
    server: AnsweringServer, suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["evaluate", "--suite", str(suite_file), f"url:{server.url}", "--to", str(out), "--published", "Adder"]
    assert cli.main([*arguments, "evaluation.max_problems=4"]) == 0
    printed = capsys.readouterr().out
    assert "| Set | k |" in printed and "published: Adder |" in printed
    assert "published: Adder: A paper, Table 1. It was not measured here." in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("| mean, both |")]
    assert line.endswith("| 37.5 |")
    assert (out / "table.md").read_text() in printed
    page = (out / "table.html").read_text()
    assert "<td>small</td><td>4</td>" in page and "http" not in page.replace(server.url, "")
    with (out / "table.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    ours, theirs = found[0], found[-1]
    assert (ours["set"], ours["problems"], ours["k"]) == ("small", "4", "4")
    assert 0.0 <= float(ours["accuracy_low"]) <= float(ours["accuracy"]) <= 1.0 and ours["published_percent"] == ""
    assert (theirs["model"], theirs["published_percent"], theirs["accuracy"]) == ("Adder", "25.0", "")


def test_a_table_says_which_sets_are_not_whole(server: AnsweringServer, suite_file: Path, tmp_path: Path) -> None:
    suite = open_suite(str(suite_file))
    evaluated(suite, tmp_path, server.url)
    (path,) = tmp_path.glob("*/small.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]))
    figures = rescore_suite(suite, suite.chosen([server.url]), tmp_path, lambda line: None)
    text = write_tables(tmp_path, suite, figures)
    assert f"small: 4 of {NUM_ROWS} problems have answers so far." in text


def test_a_table_says_how_many_prompts_were_too_long(server: AnsweringServer, suite_file: Path, tmp_path: Path) -> None:
    suite = open_suite(str(suite_file))
    figures = evaluated(suite, tmp_path, server.url)
    assert not [line for line in notes(suite, figures) if "too long" in line]
    config = suite.of(suite.chosen([server.url])[0])
    part, whole = sets_of(config, [frozenset({0, 2, NUM_ROWS}), frozenset()])  # the last is none of the first NUM_ROWS
    assert (part.num_left_out, len(part.hashes)) == (2, NUM_ROWS - 2)
    assert (whole.num_left_out, len(whole.hashes)) == (0, NUM_ROWS)
    sets = {"small": replace(figures[0].sets["small"], num_left_out=2)}
    (line,) = [line for line in notes(suite, [replace(figures[0], sets=sets)]) if "too long" in line]
    assert "small: 2 problems are in no figure" in line


def test_scoring_again_knows_which_prompts_were_too_long(
    server: AnsweringServer, suite_file: Path, tmp_path: Path
) -> None:
    suite = open_suite(str(suite_file))
    evaluated(suite, tmp_path, server.url)
    (path,) = tmp_path.glob("*/small.jsonl")
    assert read_header(path)["left_out"] == []
    kept = [row for row in read_answers(path) if row.problem not in (2, 3)]
    replace_answers(path, read_header(path) | {"left_out": [2, 3, NUM_ROWS]}, iter(kept))
    (model,) = rescore_suite(suite, suite.chosen([server.url]), tmp_path, lambda line: None)
    small = model.sets["small"]
    assert (small.num_problems, small.num_expected, small.num_left_out) == (NUM_ROWS - 2, NUM_ROWS - 2, 2)
    assert read_header(path)["left_out"] == [2, 3, NUM_ROWS]


def test_a_server_without_the_model_is_refused(server: AnsweringServer, suite_file: Path, tmp_path: Path) -> None:
    server.models = ["one", "two"]
    with pytest.raises(ValueError, match=r"has no model .*, it serves one, two: name one of them as `served_model`"):
        evaluated(open_suite(str(suite_file)), tmp_path, server.url)


@pytest.mark.parametrize("option", ["--sets=x", "--only=x", "--to=x", "--rescore", "--published=x"])
def test_options_of_suites_need_one(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "job.yaml", option]) == 2
    assert f"{option.partition('=')[0]}: needs --suite" in capsys.readouterr().err


def test_two_models_of_one_name_are_refused(suite_file: Path, tmp_path: Path) -> None:
    suite = open_suite(str(suite_file))
    names = ["http://one:1/model", "http://two:1/model"]
    with pytest.raises(ValueError, match="two models are called 'model' in the table"):
        evaluated(suite, tmp_path, *names)


def test_a_suite_trains_nothing(suite_file: Path) -> None:
    with pytest.raises(ConfigError, match="learners: a suite trains nothing"):
        open_suite(str(suite_file), ["learners.num_learners=2"]).check(files=False)
