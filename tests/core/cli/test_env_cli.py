"""`tgpo-ray env ...` as a person at a terminal sees it."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from tests.paths import ROOT
from tgpo_ray.cli import main
from tgpo_ray.cli.env import parsed_kwargs

FLAWED = "tests.core.checks.flawed_envs"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")


def test_list_has_a_line_for_each_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "list"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["tgpo/Math-v0"].startswith("Problems and gold answers of a jsonl or parquet file")


def test_show_prints_prompts_and_gold_responses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "show", f"{FLAWED}:Sums-v0", "-n", "2", "--index", "3"]) == 0
    expected = "--- problem 3\n3+3=\n--- gold response\n6\n\n--- problem 4\n4+4=\n--- gold response\n8\n\n"
    assert capsys.readouterr().out == expected


def test_show_lists_the_arguments_without_making_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "show", "tgpo/Math-v0", "--arguments"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "path: str"
    assert lines[1].startswith("    A jsonl or parquet file")
    assert "rounding: int = 6" in lines and any("Significant digits" in line for line in lines)
    assert main(["env", "show", f"{FLAWED}:Sums-v0", "--arguments"]) == 0
    assert capsys.readouterr().out == f"{FLAWED}:Sums-v0 takes no arguments\n"
    assert main(["env", "show", "tgpo/Maths-v0", "--arguments"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_show_says_where_no_gold_response_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "show", f"{FLAWED}:NoGold-v0", "-n", "1"]) == 0
    assert "--- gold response: unknown" in capsys.readouterr().out


def test_a_person_plays_until_the_input_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("2\n\nsix\nor so\n\n"))
    assert main(["env", "play", f"{FLAWED}:Sums-v0", "--index", "1", "-n", "9"]) == 0
    said = capsys.readouterr().out
    assert "1+1=" in said and "--- reward 1, outcome correct, answer 2" in said
    assert "2+2=" in said and "--- reward 0, outcome wrong, answer 'six\\nor so'" in said
    assert "3+3=" in said and "4+4=" not in said


def test_an_answer_may_have_empty_lines_inside_a_block_of_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("```python\na = 1\n\nb = 2\n```\n\n"))
    assert main(["env", "play", f"{FLAWED}:Sums-v0"]) == 0
    assert "answer '```python\\na = 1\\n\\nb = 2\\n```'" in capsys.readouterr().out


def test_show_tells_the_environments_turns_between_right_responses(capsys: pytest.CaptureFixture[str]) -> None:
    for prompt, author in (("plain", "environment"), ("chat", "user")):
        arguments = ["--kwargs", "high=3", f"prompt={prompt}"]
        assert main(["env", "show", "tgpo/GuessNumber-v0", "-n", "1", "--index", "1", *arguments]) == 0
        said = capsys.readouterr().out
        hint = "My number is higher than 2. Guesses left: 1."
        assert f"[policy]\n\\boxed{{2}}\n[{author}]\n{hint}\n[policy]\n\\boxed{{3}}\n" in said


def test_a_person_hears_the_environments_turns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n\n2\n\n3\n\n"))
    assert main(["env", "play", f"{FLAWED}:Turns-v0"]) == 0
    said = capsys.readouterr().out
    assert said.count("Another one.") == 2 and "--- reward 1" in said


def test_check_prints_a_table_and_passes_what_is_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "check", "tgpo/Arithmetic-v0", "--limit", "20", "--kwargs", "digits=[2, 1]"]) == 0
    said = capsys.readouterr().out
    assert "20 of 20 score 1.0" in said and said.rstrip().endswith("nothing is wrong")


def test_check_shows_the_failing_rows_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "check", f"{FLAWED}:WrongGold-v0"]) == 1
    said = capsys.readouterr().out
    assert "gold answers: problem 3: '7': reward 0, wrong, read as '7'" in said
    assert said.rstrip().endswith("failed: gold answers")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "tgpo/Arithmatic-v0"], "did you mean 'tgpo/Arithmetic-v0'?"),
        (["show", "no_such_module:Env-v0"], "No module named 'no_such_module'"),
        (
            ["show", "tgpo/Arithmetic-v0", "--kwargs", "digits=[99, 1]"],
            "tgpo/Arithmetic-v0: digits must be two integers",
        ),
        (["show", "tgpo/Arithmetic-v0", "--kwargs", "digit=3"], "unknown argument 'digit': did you mean 'digits'?"),
        (["show", "tgpo/MathTool-v0", "--kwargs", "path=x", "promt=chat"], "'promt': did you mean 'prompt'?"),
        (["show", "tgpo/RewardFunction-v0"], "kwargs lack 'path' and 'reward'"),
        (["show", f"{FLAWED}:Sums-v0", "--kwargs", "a=1"], "unknown argument 'a': there are none"),
        (["show", "tgpo/Arithmetic-v0", "--kwargs", "digits"], "takes key=value or one JSON object, got 'digits'"),
        (["show", "tgpo/Arithmetic-v0", "--kwargs", '{"digits": '], "--kwargs is not JSON"),
        (["show", f"{FLAWED}:Sums-v0", "--index", "12"], "--index must be in [0, 12), got 12"),
        (["check", f"{FLAWED}:Sums-v0", "--max-prompt-tokens", "9"], "--max-prompt-tokens needs --tokenizer"),
        (["check", f"{FLAWED}:Sums-v0", "--chat-template-kwargs", "a=1"], "--chat-template-kwargs needs --tokenizer"),
        (["check", f"{FLAWED}:Sums-v0", "--tokenizer", "/nowhere"], "--tokenizer /nowhere cannot be loaded"),
    ],
)
def test_mistakes_are_one_line_on_standard_error(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["env", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("tgpo-ray env: ") and message in said


@pytest.mark.parametrize("command", ["show", "play"])
def test_half_of_a_character_is_shown_as_the_policy_reads_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("2\n\n"))
    assert main(["env", command, f"{FLAWED}:Halved-v0", "-n", "1"]) == 0
    assert "0+0=\ufffd" in capsys.readouterr().out


def test_arguments_are_json_or_yaml() -> None:
    expected = {"digits": [2, 2], "split": "test", "rate": 1e-3}
    assert parsed_kwargs(["digits=[2, 2]", "split=test", "rate=1e-3"]) == expected
    assert parsed_kwargs(['{"digits": [2, 2], "split": "test", "rate": 1e-3}']) == expected


def test_checking_loads_neither_torch_nor_ray_nor_vllm() -> None:
    code = (
        "import sys; from tgpo_ray.cli import main; main(['env', 'check', 'tgpo/Arithmetic-v0', '--limit', '5']);"
        "print({'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
