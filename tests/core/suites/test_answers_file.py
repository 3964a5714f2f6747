"""The file of answers: what is appended stays, a torn line goes, and nothing is mixed."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tgpo_ray.suites.answers_file import (
    Answer,
    AnswersFile,
    ProblemAnswers,
    missing_of,
    read_answers,
    read_header,
    replace_answers,
)

HEADER: dict[str, Any] = {
    "set": "AIME24",
    "sampling": {"model": {"sha256": "a"}, "temperature": 0.6, "stop": ("x",)},
    "scoring": {"require_box": True},
}


def row(problem: int, text: str = "\\boxed{1}\u2028 \ud800") -> ProblemAnswers:
    return ProblemAnswers(problem, f"h{problem}", "1+0=", None, (Answer(text, "correct", 1.0, "1", "stop", 3),) * 2)


def written(path: Path, *problems: int) -> Path:
    with AnswersFile(path, HEADER) as file:
        for problem in problems:
            file.append(row(problem))
    return path


def test_what_was_appended_is_read_again_and_is_not_missing(tmp_path: Path) -> None:
    path = written(tmp_path / "model" / "set.jsonl", 2, 0)
    assert [it.problem for it in read_answers(path)] == [2, 0]
    assert next(read_answers(path)).answers[1].text == "\\boxed{1}\u2028 ?"  # a lone surrogate is no UTF-8
    with AnswersFile(path, HEADER) as file:
        assert missing_of(file, {0: "h0", 1: "h1", 2: "h2", 3: "h3"}) == [1, 3]
        file.append(row(1))
    assert sorted(it.problem for it in read_answers(path)) == [0, 1, 2]


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_torn_last_line_is_sampled_again(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "set.jsonl", 0, 1)
    path.write_bytes(path.read_bytes()[:-cut])
    assert [it.problem for it in read_answers(path)] == [0]
    with AnswersFile(path, HEADER) as file:
        assert list(file.done) == [0]
        file.append(row(1))
    assert [it.problem for it in read_answers(path)] == [0, 1]


def test_a_torn_header_is_no_file_yet(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"format": 1, "sam')
    assert written(path, 0) == path
    assert read_header(path)["set"] == "AIME24"


def test_a_long_line_is_found_beyond_one_block(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    with AnswersFile(path, HEADER) as file:
        file.append(row(0, "x" * 200_000))
    with path.open("ab") as end:
        end.write(b'{"problem": 1' + b" " * 100_000)
    with AnswersFile(path, HEADER) as file:
        assert list(file.done) == [0]
    assert path.read_bytes().endswith(b"}\n")


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "set.jsonl", 0, 1)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{\n" + lines[2])
    with pytest.raises(ValueError, match=r"set\.jsonl, line 2 is damaged: delete that line"):
        AnswersFile(path, HEADER)


def test_other_sampling_is_refused_with_what_differs_and_the_way_out(tmp_path: Path) -> None:
    path = written(tmp_path / "set.jsonl", 0)
    other = {**HEADER, "sampling": {**HEADER["sampling"], "temperature": 1.0, "model": {"sha256": "b"}}}
    expected = r"not mixed \(model\.sha256: \"a\" there, \"b\" here; temperature: 0\.6 there, 1\.0 here\): name another"
    with pytest.raises(ValueError, match=expected):
        AnswersFile(path, other)


def test_other_verdicts_are_refused_and_rescore_is_the_way_out(tmp_path: Path) -> None:
    path = written(tmp_path / "set.jsonl", 0)
    with pytest.raises(ValueError, match=r"require_box: true there, false here\): score its answers again with --res"):
        AnswersFile(path, {**HEADER, "scoring": {"require_box": False}})


def test_answers_to_another_prompt_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "set.jsonl", 0, 1)
    with pytest.raises(ValueError, match="holds answers to another prompt of problem 1"):
        AnswersFile(path, HEADER, {0: "h0", 1: "other"})


def test_a_set_with_fewer_problems_leaves_the_others_alone(tmp_path: Path) -> None:
    with AnswersFile(written(tmp_path / "set.jsonl", 0, 1), HEADER) as file:
        assert missing_of(file, {0: "h0"}) == []


def test_any_other_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"problem": 1}\n')
    with pytest.raises(ValueError, match="is no file of answers"):
        AnswersFile(path, HEADER)
    assert path.read_text() == '{"problem": 1}\n'


def test_two_processes_do_not_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    with (
        AnswersFile(path, HEADER),
        pytest.raises(ValueError, match="another evaluation writes to this file"),
    ):
        AnswersFile(path, HEADER)
    AnswersFile(path, HEADER).close()


def test_replaced_verdicts_appear_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = written(tmp_path / "set.jsonl", 0, 1)
    before = path.read_bytes()

    def broken() -> Any:
        yield row(0)
        raise RuntimeError("the verifier died")

    with pytest.raises(RuntimeError, match="died"):
        replace_answers(path, HEADER, broken())
    assert path.read_bytes() == before
    wrong = (replace(it, answers=it.answers[:1]) for it in read_answers(path))
    replace_answers(path, {**HEADER, "scoring": {}}, wrong)
    assert [len(it.answers) for it in read_answers(path)] == [1, 1]
    assert read_header(path)["scoring"] == {}
    assert sorted(it.name for it in tmp_path.iterdir()) == ["set.jsonl"]


def _write_for_ever(path: Path) -> None:
    with AnswersFile(path, HEADER) as file:
        problem = 0
        while True:
            file.append(row(problem, "x" * 5000))
            problem += 1


def test_kill_9_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    process = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(path,))
    process.start()
    while not path.exists() or path.stat().st_size < 200_000:
        assert process.is_alive()
    process.kill()
    process.join()
    num_lines = path.read_bytes().count(b"\n") - 1
    with AnswersFile(path, HEADER) as file:
        assert list(file.done) == list(range(num_lines))
    assert json.loads(path.read_bytes().splitlines()[-1])["problem"] == num_lines - 1
