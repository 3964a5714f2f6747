"""Data sets as training files: columns, steps, traces, counts and the card."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tgpo_ray.envs import PromptOptions, Verdict
from tgpo_ray.envs.data_sets import (
    SOURCES,
    Preparation,
    TraceFile,
    TraceVerifier,
    card,
    evaluation_problems,
    prepare,
    source_named,
    trace_verifier,
)
from tgpo_ray.envs.math_env import MathEnv
from tgpo_ray.envs.rows import stream_rows

LONG = "A farmer has 12 hens and each of them lays 2 eggs a day; how many eggs are there after a whole week of 7 days?"


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def openr1(problem: str, answer: str, trace: str | None) -> dict[str, Any]:
    """A row as LUFFY's file has it."""
    return {
        "data_source": "x",
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": problem}],
        "target": [{"role": "assistant", "content": trace}],
        "reward_model": {"ground_truth": answer, "style": "rule"},
    }


def prepared(folder: Path, rows: list[dict[str, Any]], name: str = "file", **settings: Any) -> Preparation:
    return prepare(Preparation(SOURCES[name], jsonl(folder / "in.jsonl", rows), **settings), folder / "out.jsonl")


def test_rows_get_one_spelling_and_each_step_is_counted(tmp_path: Path) -> None:
    rows = [
        {"question": "1+1?", "answer": "So it is\n#### 2", "extra": 1},
        {"question": " 1 + 1? ", "answer": "2", "extra": 1},
        {"question": "1+1?", "answer": "3", "extra": 1},
        {"question": "", "answer": "3", "extra": 1},
        {"question": "2+2?", "answer": None, "extra": 1},
        {"question": LONG, "answer": 168, "extra": 1},
        {"question": "Half of 3?", "answer": 1.5, "extra": 1},
    ]
    against = evaluation_problems([jsonl(tmp_path / "eval.jsonl", [{"problem": "Other?"}, {"problem": LONG}])])
    done = prepared(tmp_path, rows, evaluation=against)
    assert lines(tmp_path / "out.jsonl") == [
        {"problem": "1+1?", "answer": "2", "row": 0},
        {"problem": "Half of 3?", "answer": "1.5", "row": 6},
    ]
    assert done.counts.table() == [
        ("incomplete", 2, 5),
        ("duplicate", 1, 4),
        ("duplicate, other answer", 1, 3),
        ("overlap", 1, 2),
    ]
    assert (done.counts.read, done.counts.written) == (7, 2)
    removed = {row.pop("row"): row for row in lines(tmp_path / "out.removed.jsonl")}
    name = str(tmp_path / "eval.jsonl")
    assert removed[5] == {"reason": "overlap", "set": name, "its_row": 1, "share": 1.0}
    assert removed[3] == {"reason": "incomplete"} and sorted(removed) == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "eval.jsonl",
        "in.jsonl",
        "out.jsonl",
        "out.removed.jsonl",
    ]
    assert MathEnv(str(tmp_path / "out.jsonl")).num_problems == 2


def test_the_same_rows_give_the_same_file(tmp_path: Path) -> None:
    rows = [{"problem": f"{n}+1?", "answer": str(n + 1)} for n in range(5)]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = prepared(tmp_path / "a", rows), prepared(tmp_path / "b", rows)
    assert first.digests == second.digests
    assert prepare(Preparation(SOURCES["file"], first.path, limit=2), tmp_path / "c.jsonl").counts.read == 2


def test_the_last_box_of_a_worked_solution_is_the_answer(tmp_path: Path) -> None:
    rows = [
        {"problem": "a?", "solution": "As \\boxed{1}, so \\boxed{\\frac{1}{2}}.", "level": "5"},
        {"problem": "b?", "solution": "no box", "level": "5"},
    ]
    done = prepared(tmp_path, rows, "math")
    assert lines(tmp_path / "out.jsonl")[0]["answer"] == "\\frac{1}{2}"
    assert done.counts.left_out == {"no box in the worked solution": 1}


@pytest.mark.parametrize(
    ("row", "chosen", "message"),
    [
        ({"q": "1?", "answer": "1"}, {},
         r"has no column 'problem' or 'question' or 'prompt' for the problem. Columns found: q, answer. "
         "Choose with --columns problem=<column>"),
        ({"problem": "1?", "meta": {"gold": "1"}}, {"answer": "meta.golt"},
         r"has no column 'meta.golt' for the answer; did you mean 'meta.gold'\? Columns found: problem, meta.gold"),
        ({"problem": "1?", "answer": "1"}, {"problm": "problem"}, r"unknown 'problm'; did you mean 'problem'\?"),
        ({"problem": ["1?"], "answer": "1"}, {}, r"in.jsonl, row 0: the column 'problem' must be text, got list"),
        ({"problem": "1?", "answer": ["1"]}, {}, "name the part that is meant, as --columns answer=answer.0"),
        ({"problem": "1?", "answer": {"gold": "1"}}, {}, "the part that is meant, as --columns answer=answer.gold"),
        ({"problem": "[{'role': 'user', 'content': '1?'}]", "answer": "1"}, {},
         "in.jsonl, row 0: the column 'problem' is a list of messages as text"),
        ({"problem": "1?", "solution": "1"}, {}, r"no row is left of 1 \(1 no box in the worked solution\)"),
        ({"problem": "", "answer": "1"}, {}, r"no row is left of 1 \(1 incomplete\)"),
    ],
)  # fmt: skip
def test_columns_that_are_not_there_or_hold_something_else_are_explained(
    tmp_path: Path, row: dict[str, Any], chosen: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, [row], chosen=chosen)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("value", [None, "", " ", float("nan"), "absent"])
def test_every_row_of_an_evaluation_set_must_have_a_problem(tmp_path: Path, value: Any) -> None:
    row = {"answer": "1"} if value == "absent" else {"problem": value, "answer": "1"}
    path = jsonl(tmp_path / "eval.jsonl", [{"problem": "1?"}, row])
    with pytest.raises(
        ValueError, match=r"--against: .*eval.jsonl, row 1 has no problem in the column 'problem': fill"
    ):
        evaluation_problems([path])


def test_a_wrong_cell_of_an_evaluation_set_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "eval.jsonl", [{"problem": "1?"}, {"problem": 5.5}])
    with pytest.raises(ValueError, match=r"--against: .*eval.jsonl, row 1: the column 'problem' must be text, got flo"):
        evaluation_problems([path])
    path = jsonl(tmp_path / "eval.jsonl", [{"problem": {"text": "1?"}}])
    with pytest.raises(ValueError, match=r"as --against FILE:problem.text"):
        evaluation_problems([path])


def test_the_column_of_an_evaluation_set_may_be_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "eval.jsonl", [{"problem": "no", "meta": {"text": "1?"}}])
    found = evaluation_problems([f"{path}:meta.text"])
    assert prepared(tmp_path, [{"problem": "1?", "answer": "1"}, {"problem": "2?", "answer": "1"}], evaluation=found)
    assert [row["set"] for row in lines(tmp_path / "out.removed.jsonl")] == [f"{path}:meta.text"]
    with pytest.raises(ValueError, match=r"has no column 'meta.txt' for the problem; did you mean 'meta.text'"):
        evaluation_problems([f"{path}:meta.txt"])
    with pytest.raises(ValueError, match=r"--against: must be FILE or FILE:column, got 'eval.jsonl:'"):
        evaluation_problems(["eval.jsonl:"])
    (tmp_path / "a:b.jsonl").write_text('{"problem": "1?"}\n')
    assert len(evaluation_problems([str(tmp_path / "a:b.jsonl")])) == 1


def test_an_unknown_data_set_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no data set is called 'gsm8'; did you mean 'gsm8k'"):
        source_named("gsm8")


class Answers:
    """A pool whose verdict is what the response's text says."""

    num_workers, deadline_s = 1, 5.0

    def submit(self, verifier: str, answer: str, text: str, settings: dict[str, Any]) -> Future[Verdict]:
        future: Future[Verdict] = Future()
        outcome = text.strip()
        future.set_result(Verdict(float(outcome == "correct"), outcome))
        return future


def test_a_time_out_is_not_a_wrong_answer(tmp_path: Path) -> None:
    outcomes = ["correct", "wrong", "timeout", "error", "unparsable", "timeout"]
    rows = [openr1(f"{n}?", "1", f"<think>\nhm\n</think>\n{outcome}") for n, outcome in enumerate(outcomes)]
    rows += [openr1("9?", "1", "<think>never ends"), openr1("10?", "1", None)]
    verifier: Any = TraceVerifier(Answers(), PromptOptions(prompt="think"))  # type: ignore[arg-type]
    done = prepared(tmp_path, rows, "openr1-46k", verifier=verifier)
    assert dict(done.counts.left_out) == {
        "trace wrong": 1,
        "trace timed out": 2,
        "trace not verified": 1,
        "trace unparsable": 2,
        "incomplete": 1,
    }
    assert done.counts.written == 1


def test_verified_rows_serve_the_environment_sft_and_luffy(tmp_path: Path) -> None:
    trace = "<think>\nTwo and two.\n</think>\n\nThe answer is \\boxed{%s}."
    rows = [openr1("2+2?", "4", trace % "4"), openr1("2+3?", "5", trace % "6"), openr1("1/2?", "1/2", trace % "0.5")]
    with trace_verifier(1, 60.0, prompt="think") as verifier:
        done = prepared(tmp_path, rows, "openr1-46k", verifier=verifier)
    assert done.counts.left_out == {"trace wrong": 1}
    written = lines(tmp_path / "out.jsonl")
    assert [row["row"] for row in written] == [0, 2]
    env = MathEnv(str(tmp_path / "out.jsonl"), prompt="think", require_box=True, deadline_s=60.0)
    for index, row in enumerate(written):
        assert row["prompt"] == env.reset(seed=0, options={"index": index})[0]
        assert not row["response"].startswith("<think>")  # the prompt ends with it
        assert env.step(row["response"])[1] == row["reward"] == 1.0
    text = card(done, tmp_path / "out.jsonl", command="tgpo-ray data prepare x", versions={"tgpo-ray": "0.1"})
    for part in (
        "2 rows of LUFFY's", "tgpo-ray data prepare x", f"`{done.digests['written']}`", "style `think`",
        "| `answer` | from `reward_model.ground_truth` |", "| read |  | 3 |", "| 1 | 2 |", "**Not compared with any**",
    ):  # fmt: skip
        assert part in text


def test_a_teachers_own_traces_are_found_by_their_prompt(tmp_path: Path) -> None:
    options = PromptOptions(prompt="plain")
    traces = [
        {"prompt": options.template.text(f"{n}?"), "response": text} for n, text in enumerate(["correct", "wrong"])
    ]
    file = TraceFile(Path(jsonl(tmp_path / "traces.jsonl", [*traces, {**traces[1], "response": "correct"}])))
    verifier: Any = TraceVerifier(Answers(), options)  # type: ignore[arg-type]
    rows = [{"problem": f"{n}?", "answer": "1"} for n in range(3)]
    done = prepared(tmp_path, rows, verifier=verifier, traces=file)
    assert dict(done.counts.left_out) == {"trace wrong": 1, "no trace": 1}  # the first trace of a prompt counts
    assert [row["response"] for row in lines(tmp_path / "out.jsonl")] == ["correct"]


def test_a_file_of_traces_that_is_none_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--traces: no such file"):
        TraceFile(tmp_path / "none.jsonl")
    path = Path(jsonl(tmp_path / "t.jsonl", [{"prompt": "1?", "answer": "1"}]))
    with pytest.raises(ValueError, match=r"line 1 has no text in the column 'response'. Columns found: prompt, answer"):
        TraceFile(path)


def test_parquet_rows_are_streamed_in_their_order(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"problem": f"{n}?", "answer": str(n)} for n in range(2500)]  # more than one batch
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert list(stream_rows(tmp_path / "rows.parquet")) == rows
