"""Reading problem files, and what their errors say."""

from __future__ import annotations

import pyarrow
import pyarrow.parquet
import pytest

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
        ("a.parquet", "not parquet at all", r"[Pp]arquet"),
    ],
)
def test_a_bad_file_is_a_value_error_that_names_it(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / name)


def test_a_missing_column_names_the_found_the_nearest_and_the_setting():
    rows = [{"question": "1+1", "problems": "1+1", "answer": "2"}]
    with pytest.raises(ValueError) as caught:
        require_columns(rows, {"problem": "problem", "answer": "answer"}, "x.jsonl")
    message = str(caught.value)
    assert "'x.jsonl' has no column 'problem'; did you mean 'problems'?" in message
    assert "Columns found: question, problems, answer" in message
    assert "columns={'problem': '<column>'}" in message


def test_an_empty_cell_names_its_row():
    with pytest.raises(ValueError, match="no 'answer' in row 1: fill it in or drop the row"):
        require_columns([{"answer": "2"}, {"answer": " "}], {"answer": "answer"}, "x.jsonl")


def test_columns_are_renamed_and_an_unknown_meaning_is_refused():
    wanted = ("problem", "answer")
    assert checked_columns({"problem": "question"}, wanted) == {"problem": "question", "answer": "answer"}
    with pytest.raises(ValueError, match="unknown key 'problm'; did you mean 'problem'"):
        checked_columns({"problm": "question"}, wanted)
