"""`tgpo-ray data prepare` and `data solutions`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tgpo_ray import cli


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"q": "1+1?", "a": "2"}, {"q": "1 + 1?", "a": "2"}, {"q": "2+2?", "a": "4"}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("eval.jsonl").write_text(json.dumps({"problem": "2+2?"}) + "\n")
    return tmp_path


def lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def test_a_file_its_card_and_what_was_left_out_are_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "prepare", "file", "--from", "rows.jsonl", "--columns", "problem=q", "answer=a"]
    assert cli.main([*command, "--against", "eval.jsonl", "--to", "out/train.jsonl"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["1", "left", "out:", "duplicate"] and out[1].split()[-1] == "overlap"
    assert out[2] == "out/train.jsonl: 1 rows of 3; card: out/train.md"
    text = Path("out/train.md").read_text()
    assert f"tgpo-ray {' '.join(command)} --against eval.jsonl --to out/train.jsonl" in text
    assert "| eval.jsonl | 1 | 1 |" in text
    assert [json.loads(line)["reason"] for line in lines("out/train.removed.jsonl")] == ["duplicate", "overlap"]


def test_a_file_that_was_compared_with_nothing_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(
            ["data", "prepare", "file", "--from", "rows.jsonl", "--columns", "problem=q", "answer=a", "--to", "o.jsonl"]
        )
        == 0
    )
    assert "not compared with any evaluation set: name them with --against" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["o.jsonl", "o.md", "o.removed.jsonl"])
def test_no_file_that_exists_is_overwritten(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").rename(name)
    before = Path(name).read_bytes()
    command = ["data", "prepare", "file", "--from", name, "--columns", "problem=q", "answer=a", "--to", "o.jsonl"]
    assert cli.main(command) == 2
    assert f"--to: {name} exists already: choose another --to, or move it away" in capsys.readouterr().err
    assert Path(name).read_bytes() == before and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["prepare", "file", "--from", "rows.jsonl", "--columns", "problem=q", "answer=a"], 0),
        (["prepare", "file", "--from", "rows.jsonl", "--columns", "problem=q", "answer=none"], 2),
        (["solutions", "tgpo/LookupChain-v0", "--kwargs", "num_problems=3", "length=2"], 0),
    ],
)
def test_what_another_command_goes_on_from_stays(folder: Path, arguments: list[str], code: int) -> None:
    for name in ("o.jsonl.partial", "o.removed.jsonl.partial"):
        Path(name).write_text("another command's")
    assert cli.main(["data", *arguments, "--to", "o.jsonl"]) == code
    for name in ("o.jsonl.partial", "o.removed.jsonl.partial"):
        assert Path(name).read_text() == "another command's"
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_a_columns_name_may_read_as_a_number(folder: Path) -> None:
    Path("numbers.jsonl").write_text(json.dumps({"5": "1+1?", "true": "2"}) + "\n")
    command = ["data", "prepare", "file", "--from", "numbers.jsonl", "--columns", "problem=5", "answer=true"]
    assert cli.main([*command, "--to", "o.jsonl"]) == 0
    assert json.loads(lines("o.jsonl")[0])["answer"] == "2"


def test_worked_solutions_of_an_environment_become_traces(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "solutions", "tgpo/LookupChain-v0", "--kwargs", "num_problems=3", "length=2"]
    assert cli.main([*command, "--to", "traces.jsonl"]) == 0
    rows = [json.loads(line) for line in lines("traces.jsonl")]
    assert [row["problem_index"] for row in rows] == [0, 1, 2]
    assert all(row["prompt"].startswith("From ") and row["response"].endswith(" }") for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "file", "--to", "o.jsonl"], "--from: required for the data set 'file'"),
        (["prepare", "gsm", "--to", "o.jsonl"], "no data set is called 'gsm'; did you mean 'gsm8k'?"),
        (["prepare", "file", "--from", "rows.jsonl", "--to", "o.txt"], "--to: must end in .jsonl, got 'o.txt'"),
        (["prepare", "file", "--from", "rows.jsonl", "--to", "eval.jsonl"], "--to: eval.jsonl exists already"),
        (["prepare", "file", "--from", "row.jsonl", "--to", "o.jsonl"],
         "no data set at 'row.jsonl' (looked for"),
        (["prepare", "file", "--from", "rows.jsonl", "--to", "o.jsonl"],
         "rows.jsonl has no column 'problem' or 'question' or 'prompt' for the problem. Columns found: q, a."),
        (["prepare", "file", "--from", "rows.jsonl", "--to", "o.jsonl", "--against", "rows.jsonl"],
         "--against: rows.jsonl has no column 'problem' or 'question' or 'prompt' for the problem. Columns found: q, "
         "a. Choose with --against FILE:<column>"),
        (["prepare", "file", "--from", "rows.jsonl", "--to", "o.jsonl", "--prompt", "think"],
         "--prompt: needs --verified"),
        (["prepare", "file", "--from", "rows.jsonl", "--to", "o.jsonl", "--verified", "--prompt", "chat"],
         "--prompt: chat is made by the model's chat template"),
        (["prepare", "file", "--from", "rows.jsonl", "--to", "o.jsonl", "--limit", "0"],
         "--limit: must be >= 1, got 0"),
        (["prepare", "file", "--from", "rows.jsonl", "--to", "o.jsonl", "--deadline-s", "-1"],
         "--deadline-s: needs --verified"),
        (["prepare", "file", "--from", "rows.jsonl", "--to", "o.jsonl", "--columns", "problem"],
         "--columns: must be meaning=column, as problem=question, got 'problem'"),
        (["prepare", "file", "--from", "rows.jsonl", "--to", "o.jsonl", "--columns", "problem="],
         "--columns: must be meaning=column, as problem=question, got 'problem='"),
        (["prepare", "file", "--from", "rows.jsonl", "--to", "o.jsonl", "--columns", "problem=null"],
         "rows.jsonl has no column 'null' for the problem"),
        (["solutions", "tgpo/LookupChain-v0", "--kwargs", "num_problems=3", "-n", "0", "--to", "o.jsonl"],
         "-n: must be >= 1, got 0"),
        (["solutions", "tgpo/LookupChain-v0", "--kwargs", "num_problems=3", "-n", "4", "--to", "o.jsonl"],
         "-n: must be <= 3, the number of problems of tgpo/LookupChain-v0, got 4"),
        (["solutions", "tgpo/LookupChain-v0", "--to", "o.jsonl"],
         "-n: required, tgpo/LookupChain-v0 makes its problems up"),
        (["solutions", "tgpo/GuessNumber-v0", "-n", "1", "--to", "o.jsonl"],
         "tgpo/GuessNumber-v0: the right response to problem 0 has several turns or a chat: use `tgpo-ray traces`"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_explained(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"tgpo-ray data: {message}")
    assert not Path("o.jsonl").exists()
