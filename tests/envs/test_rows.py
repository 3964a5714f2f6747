"""Reading problem files, and what their errors say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pyarrow
import pyarrow.parquet
import pytest

import tgpo_ray.envs  # noqa: F401  (registers the ids)
from tgpo_ray.envs.row_store import Rows
from tgpo_ray.envs.rows import checked_columns, read_rows, require_columns


def test_jsonl_and_parquet_give_the_same_rows(tmp_path, write_jsonl):
    rows = [{"problem": "1+1", "answer": "2"}, {"problem": "1+2 ½", "answer": "3"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "problems.parquet")
    assert read_rows(write_jsonl(*rows)) == rows == read_rows(tmp_path / "problems.parquet")


def test_blank_lines_are_no_rows(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"problem": "1"}\n\n  \n{"problem": "2"}\n')
    assert len(read_rows(tmp_path / "a.jsonl")) == 2


def test_a_missing_file_is_named_with_its_neighbour(tmp_path, write_jsonl):
    write_jsonl({"problem": "1"}, name="gsm8k_train.jsonl")
    with pytest.raises(
        FileNotFoundError, match=r"no data set at .*gsm8k_trian.jsonl.*Did you mean .*gsm8k_train.jsonl"
    ):
        read_rows(tmp_path / "gsm8k_trian.jsonl")
    with pytest.raises(FileNotFoundError, match="looked for /"):
        read_rows("no/such/folder/a.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "problem\n", r"must end in .jsonl or .parquet, got '.csv'"),
        ("a.jsonl", "", "has no rows: give a file with at least one problem"),
        ("a.jsonl", '{"problem": "1"}\n{oops\n', "line 2 is not JSON"),
        ("a.jsonl", "[1, 2]\n", "line 1 must be a JSON object, got list"),
        ("a.jsonl", '{"problem": "1"}\n{"problem": 1' + "0" * 5000 + "}", "a.jsonl, line 2 cannot be read: Exceeds"),
        ("a.jsonl", '{"problem": "1"}\n' + "[" * 100_000, "a.jsonl, line 2 cannot be read: maximum recursion"),
        ("a.parquet", "not parquet at all", "a.parquet is no parquet file: "),
    ],
)
def test_a_bad_file_is_a_value_error_that_names_it(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / name)


def test_a_missing_column_names_the_found_the_nearest_and_the_setting():
    rows = [{"question": "1+1", "problems": "1+1", "answer": "2"}]
    with pytest.raises(ValueError) as caught:
        require_columns(Rows.of(rows), {"problem": "problem", "answer": "answer"}, "x.jsonl")
    message = str(caught.value)
    assert "'x.jsonl' has no column 'problem'; did you mean 'problems'?" in message
    assert "Columns found: question, problems, answer" in message
    assert "columns={'problem': '<column>'}" in message


def test_an_empty_cell_names_its_row():
    with pytest.raises(ValueError, match="no 'answer' in row 1: fill it in or drop the row"):
        require_columns(Rows.of([{"answer": "2"}, {"answer": " "}]), {"answer": "answer"}, "x.jsonl")


def test_columns_are_renamed_and_an_unknown_meaning_is_refused():
    wanted = ("problem", "answer")
    assert checked_columns({"problem": "question"}, wanted) == {"problem": "question", "answer": "answer"}
    with pytest.raises(ValueError, match="unknown key 'problm'; did you mean 'problem'"):
        checked_columns({"problm": "question"}, wanted)


def test_a_file_is_read_once_in_a_process_and_again_when_it_changes(tmp_path, write_jsonl):
    path = write_jsonl({"problem": "1+1", "answer": "2", "note": "a"}, {"problem": "2+2", "answer": "4"})
    rows = read_rows(path)
    assert read_rows(path) is rows
    assert read_rows(path, columns=["answer"]) is not rows
    assert list(read_rows(path, columns=["answer"])) == [{"answer": "2"}, {"answer": "4"}]
    Path(path).write_text('{"problem": "3+3", "answer": "6"}\n')
    assert list(read_rows(path)) == [{"problem": "3+3", "answer": "6"}]
    assert len(rows) == 2  # who has the old rows keeps them


def test_rows_are_read_only(write_jsonl):
    path = write_jsonl({"problem": "1+1", "choices": ["1", "2"]}, {"problem": "2+2", "choices": ["4"], "note": None})
    rows = read_rows(path)
    rows[0]["problem"] = "changed"
    rows[0]["choices"].append("changed")
    assert rows[0] == {"problem": "1+1", "choices": ["1", "2"]}  # a key that a row lacks stays out of it
    assert rows[-1] == {"problem": "2+2", "choices": ["4"], "note": None}
    assert rows[0:2] == list(rows)
    assert not hasattr(rows, "append")


def math_env(path: str, **arguments: Any) -> Any:
    return gymnasium.make("tgpo/Math-v0", path=path, **arguments).unwrapped


def test_a_second_environment_on_a_file_shares_the_rows_of_the_first(write_jsonl):
    path = write_jsonl(*({"problem": f"{n}+1", "answer": str(n + 1)} for n in range(50)))
    first, second = (math_env(path) for _ in range(2))
    renamed = math_env(path, columns={"problem": "answer", "answer": "answer"})
    assert first._rows is second._rows
    assert first._rows is not renamed._rows
    assert renamed.row(3) == ("4", "4")


def test_a_row_that_cannot_be_parsed_is_named_each_time(write_jsonl):
    path = write_jsonl({"problem": "1", "answer": "1"}, {"problem": "2", "answer": "2", "tolerance": "wide"})
    for _ in range(2):
        with pytest.raises(ValueError, match=r"row 1: a tolerance must be a number >= 0 or a list, got 'wide'"):
            gymnasium.make("tgpo/Math-v0", path=path)
