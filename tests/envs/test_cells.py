"""Cells are what they should be, layouts of other trainers are read, and encodings are named."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.envs.single_step import step
from tgpo_ray.envs.code_env import CodeEnv
from tgpo_ray.envs.format_gate import FormatGate
from tgpo_ray.envs.math_env import MathEnv
from tgpo_ray.envs.math_tool import MathToolEnv
from tgpo_ray.envs.multiple_choice import MultipleChoiceEnv
from tgpo_ray.envs.rows import read_rows

GOOD = {"problem": "1+1?", "answer": "2"}
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1+4?"}]
VERL = {
    "data_source": "sums",
    "prompt": CHAT,
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "extra_info": {"index": 0, "split": "train"},
}
VERL_COLUMNS = {"problem": "prompt", "answer": "reward_model.ground_truth"}


@pytest.mark.parametrize(
    ("meaning", "value", "shown", "fix"),
    [
        ("problem", ["1+1?"], "list ['1+1?']", "columns: {problem: column.0}"),
        ("problem", {"text": "1+1?"}, "dict {'text': '1+1?'}", "columns: {problem: column.key}"),
        ("problem", 1.5, "float 1.5", "write it as text"),
        ("problem", True, "bool True", "write it as text"),
        ("problem", [{"role": "user"}], "list [{'role': 'user'}]", "columns"),
        ("problem", str(CHAT), "list of messages as text", "store the list itself"),
        ("problem", json.dumps(CHAT), "list of messages as text", "store the list itself"),
        ("problem", "half of \ud83d", "half of a character (a lone surrogate) at position 8", "mend the text"),
        ("problem", [{"role": "robot", "content": "1+1?"}], "role 'robot'", "must be one of system"),
        ("problem", [{"role": "user", "content": [{"type": "image"}]}], "not text", "only text can be read"),
        ("problem", [{"role": "user", "content": None}], "without content", "fill it in"),
        ("problem", [*CHAT, {"role": "assistant", "content": "5"}], "ends with a message of the assistant", "leave it"),
        ("answer", ["2", "9"], "list ['2', '9']", "columns: {answer: column.0}"),
        ("answer", {"ground_truth": "2"}, "dict {'ground_truth': '2'}", "reward_model.ground_truth"),
        ("answer", False, "bool False", "write it as text"),
        ("answer", float("inf"), "inf", "finite"),
    ],
)  # fmt: skip
def test_a_cell_of_another_kind_is_refused_with_column_row_value_and_fix(
    meaning: str, value: Any, shown: str, fix: str, write_jsonl: Any
) -> None:
    names = {"problem": "question", "answer": "final"}
    rows = [{names[key]: cell for key, cell in row.items()} for row in (GOOD, {**GOOD, meaning: value})]
    with pytest.raises(ValueError, match="row 1: the column") as caught:
        MathEnv(write_jsonl(*rows), columns=names)
    message = str(caught.value)
    assert repr(names[meaning]) in message and shown in message and fix in message


@pytest.mark.parametrize("value", [["1+1?"], {"text": "1+1?"}, CHAT, 1.5, "half of \ud83d"])
def test_a_problem_with_options_must_be_text(value: Any, write_jsonl: Any) -> None:
    rows = [{"question": problem, "choices": ["1", "2"], "answer": "B"} for problem in ("1+1?", value)]
    with pytest.raises(ValueError, match=r"row 1: the column 'question' (must be text|has half of a character)"):
        MultipleChoiceEnv(write_jsonl(*rows), columns={"problem": "question"})


@pytest.mark.parametrize("value", [float("nan"), None, "", " \n"])
def test_a_cell_without_a_value_is_named_whatever_stands_for_none(value: Any, write_jsonl: Any) -> None:
    with pytest.raises(ValueError, match=r"has no 'answer' in row 1( \(it is NaN\))?: fill it in or drop the row"):
        MathEnv(write_jsonl(GOOD, {**GOOD, "answer": value}))


def test_an_optional_cell_that_is_nan_is_none(write_jsonl: Any) -> None:
    path = write_jsonl({**GOOD, "tolerance": float("nan")}, {**GOOD, "tolerance": 0.5})
    env = MathEnv(path)
    assert [step(env, index, "\\boxed{2.3}")[0] for index in range(2)] == [0.0, 1.0]


@pytest.mark.parametrize(("value", "right"), [(7, "7"), (7.0, "7"), (0.5, "1/2"), (-3.0, "-3"), (2**60, str(2**60))])
def test_numbers_are_answers(value: Any, right: str, write_jsonl: Any) -> None:
    env = MathEnv(write_jsonl({**GOOD, "answer": value}))
    assert step(env, 0, f"\\boxed{{{right}}}")[0] == 1.0
    assert step(env, 0, env.gold_response(0))[0] == 1.0


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_verls_rows_are_read_when_the_columns_say_so(kind: str, write_jsonl: Any, tmp_path: Path) -> None:
    path = write_jsonl(VERL)
    if kind == "parquet":
        path = str(tmp_path / "verl.parquet")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([VERL]), path)
    for prompt in ("plain", "chat", "{problem}"):
        env = MathEnv(path, columns=VERL_COLUMNS, prompt=prompt)
        text, info = env.reset(seed=0, options={"index": 0})
        assert info["messages"] == CHAT and text == "Be brief.\n\nWhat is 1+4?"
        assert env.step("\\boxed{5}")[1] == 1.0
        assert env.row(0)[1] == "5"


def test_trls_messages_become_the_conversation(write_jsonl: Any) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "1+4?"}]}]
    for prompt in (CHAT[1:], parts):
        path = write_jsonl({"prompt": prompt, "solution": "5"}, name=f"{id(prompt)}.jsonl")
        env = MathEnv(path, columns={"problem": "prompt", "answer": "solution"}, prompt="chat")
        assert env.reset(options={"index": 0})[1]["messages"] == CHAT[1:]


def test_the_system_prompt_of_a_conversation_can_be_replaced_and_dropped(write_jsonl: Any) -> None:
    path = write_jsonl(VERL)
    for system_prompt, content in ((None, "Be brief."), ("Be long.", "Be long."), ("", "")):
        env = MathEnv(path, columns=VERL_COLUMNS, prompt="chat", system_prompt=system_prompt)
        first, *others = env.reset(options={"index": 0})[1]["messages"]
        assert (first, others) == ({"role": "system", "content": content}, CHAT[1:])


def test_a_conversation_under_a_style_of_text_is_refused_with_both_ways_out(write_jsonl: Any) -> None:
    env = MathEnv(write_jsonl(VERL), columns=VERL_COLUMNS, prompt="think")
    with pytest.raises(
        ValueError, match=r"prompt: 'think' makes text of it: write prompt: chat, or .*prompt.0.content"
    ):
        env.reset(options={"index": 0})
    text = MathEnv(write_jsonl(VERL), columns={**VERL_COLUMNS, "problem": "prompt.1.content"}, prompt="think")
    assert "User: What is 1+4?" in text.reset(options={"index": 0})[0]
    assert text.gate == FormatGate(None, "<think>")


def test_a_tools_explanation_ends_the_last_message(write_jsonl: Any) -> None:
    messages = MathToolEnv(write_jsonl(VERL), columns=VERL_COLUMNS).reset(options={"index": 0})[1]["messages"]
    assert messages[0] == CHAT[0] and messages[1]["content"].startswith("What is 1+4?\n\nYou may use a calculator")


def test_code_rows_may_be_conversations_with_nested_tests(write_jsonl: Any) -> None:
    tests = json.dumps({"inputs": [[1]], "outputs": [2], "fn_name": "f"})
    path = write_jsonl({**VERL, "reward_model": {"ground_truth": tests}})
    env = CodeEnv(path, columns={"problem": "prompt", "tests": "reward_model.ground_truth"})
    assert env.reset(options={"index": 0})[1]["messages"] == CHAT


def test_a_column_with_a_full_stop_in_its_name_wins(write_jsonl: Any) -> None:
    path = write_jsonl({"problem": "1?", "a.b": "1", "a": {"b": "2"}}, {"problem": "2?", "a": {"b": "2"}})
    env = MathEnv(path, columns={"answer": "a.b"})
    assert [env.row(index)[1] for index in range(2)] == ["1", "2"]
    assert list(read_rows(path).column("a.b")) == ["1", None]


def test_a_part_that_a_row_lacks_is_named(write_jsonl: Any) -> None:
    rows = [VERL, {**VERL, "reward_model": {"style": "rule"}}]
    with pytest.raises(ValueError, match=r"no 'reward_model.ground_truth' in row 1 \(its 'reward_model' has no part"):
        MathEnv(write_jsonl(*rows), columns=VERL_COLUMNS)
    with pytest.raises(ValueError, match=r"no column 'reward.ground_truth'; did you mean 'reward_model'"):
        MathEnv(write_jsonl(*rows), columns={**VERL_COLUMNS, "answer": "reward.ground_truth"})


def test_byte_order_marks_are_read_past(tmp_path: Path) -> None:
    line = json.dumps({"problem": "½?", "answer": "1"}, ensure_ascii=False).encode() + b"\n"
    file = tmp_path / "joined.jsonl"
    file.write_bytes(codecs.BOM_UTF8 + line + codecs.BOM_UTF8 + line + codecs.BOM_UTF8 + b"\n")
    assert list(read_rows(file)) == [{"problem": "½?", "answer": "1"}] * 2


@pytest.mark.parametrize(
    ("encoding", "named"), [("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("utf-16-be", "UTF-16"), ("latin-1", "LATIN1")]
)
def test_another_encoding_is_named_with_the_file_and_the_fix(encoding: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    file.write_bytes(mark + json.dumps({"problem": "é?", "answer": "1"}, ensure_ascii=False).encode(encoding))
    with pytest.raises(
        ValueError, match=rf"other.jsonl is not UTF-8 .* {named}: convert it, as with `iconv -f {named}"
    ):
        read_rows(file)
