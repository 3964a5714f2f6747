"""tgpo/Code-v0."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.envs.sandbox_runs import sandbox_processes
from tests.envs.single_step import step
from tests.paths import ROOT
from tgpo_ray.envs.code_blocks import python_blocks
from tgpo_ray.envs.code_env import CodeEnv
from tgpo_ray.envs.code_tests import read_tests
from tgpo_ray.envs.sandbox import MECHANISMS, SandboxUnavailableError, why_not

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or all(map(why_not, MECHANISMS)), reason="no sandbox works on this machine"
)

ADD = {
    "problem": "Add two numbers.",
    "tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"],
    "entry_point": "add",
    "solution": "def add(a, b):\n    return a + b\n",
}
SQUARE = {
    "problem": "Square a number.",
    "tests": [{"input": [3], "output": 9}, {"input": {"x": -2}, "output": 4}],
    "entry_point": "square",
    "solution": "def square(x):\n    return x * x",
}


@pytest.fixture
def path(write_jsonl) -> str:
    return write_jsonl(ADD, SQUARE)


def block(code: str) -> str:
    return f"Here it is:\n```python\n{code}\n```\nDone."


def test_the_environment_passes_gymnasiums_check(path):
    check_env(gymnasium.make("tgpo/Code-v0", path=path).unwrapped)
    assert sandbox_processes() == []


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_gold_responses_score_one_and_near_misses_zero(path, mechanism):
    if why_not(mechanism):
        pytest.skip(why_not(mechanism))
    env = CodeEnv(path, mechanism=mechanism)
    for index in range(2):
        reward, info = step(env, index, env.gold_response(index) or "")
        assert (reward, info["outcome"]) == (1.0, "correct"), info
        assert info["reward_parts"] == {"accuracy": 1.0, "tests_passed": 1.0, "in_time": 1.0}
    assert step(env, 0, block("def add(a, b): return abs(a) + abs(b)"))[0] == 0.0
    assert step(env, 1, block("def square(x): return x * 2 + 3"))[0] == 0.0


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (block("def add(a, b): return a - b"), "wrong"),
        (block("def add(a, b): raise SystemExit(0)"), "wrong"),
        (block("import os; os._exit(0)"), "wrong"),
        (block("def add(a, b)"), "unparsable"),
        (block("while True: pass"), "wrong"),
        ("def add(a, b): return a + b", "unparsable"),
        ("```\ndef add(a, b): return a + b\n```", "unparsable"),
        ("```python\ndef add(a, b): return a + b", "unparsable"),
        ("", "unparsable"),
    ],
)
def test_outcomes_are_typed(path, code, outcome):
    reward, info = step(CodeEnv(path, deadline_s=1.0), 0, code)
    assert (reward, info["outcome"]) == (0.0, outcome), info
    assert info["detail"]


def test_partial_credit_is_the_share_of_tests_passed(path):
    half = block("def add(a, b): return 3")
    reward, info = step(CodeEnv(path, partial_credit=True), 0, half)
    assert (reward, info["outcome"]) == (0.5, "wrong")
    reward, info = step(CodeEnv(path), 0, half)
    assert (reward, info["outcome"]) == (0.0, "wrong")
    half_then_loop = block("def add(a, b):\n    while a < 0: pass\n    return a + b")
    reward, info = step(CodeEnv(path, partial_credit=True, deadline_s=1.0), 0, half_then_loop)
    assert (reward, info["outcome"]) == (0.0, "wrong") and info["detail"].startswith("time limit")
    assert info["reward_parts"] == {"accuracy": 0.0, "tests_passed": 0.0, "in_time": 0.0}


def test_a_sandbox_that_fails_is_an_error_and_no_wrong_answer(path, monkeypatch):
    env = CodeEnv(path)
    monkeypatch.setattr("tgpo_ray.envs.sandbox.host.LAUNCH", "/no/such/file.py")
    reward, info = step(env, 0, env.gold_response(0) or "")
    assert (reward, info["outcome"]) == (0.0, "error") and "without a verdict" in info["detail"]
    assert "in_time" not in info["reward_parts"]


def last_python_block(response: str) -> str | None:
    return ([None, *python_blocks(response)])[-1]


def test_the_last_closed_python_block_counts():
    assert last_python_block("```python\na\n```\n```py\nb\n```\n```text\nc\n```") == "b\n"
    assert (
        last_python_block("```text\nno\n```\nso:\n  ```Python3\nx = 1\n\ny = 2\n  ```\n```python\nopen")
        == "x = 1\n\ny = 2\n"
    )
    assert last_python_block("```python\n```") == "\n"
    assert last_python_block("```pythonic\na\n```") is None
    assert last_python_block("```python\n" * 100_000) is None


def test_tests_are_read_in_every_shape():
    pair = {"args": [[1], 2], "kwargs": {}, "expected": 3}
    assert read_tests("assert f()") == [{"code": "assert f()"}]
    assert read_tests('["assert f()", "assert g()"]') == [{"code": "assert f()"}, {"code": "assert g()"}]
    assert read_tests([{"input": [[1], 2], "output": 3}]) == read_tests([([[1], 2], 3)]) == [pair]
    assert read_tests(json.dumps([[[[1], 2], 3]])) == [pair]
    for bad, message in (
        ([], "no tests"),
        ([3], "a test must be"),
        (["def"], "no Python"),
        ([("x", 1)], "a list or a"),
    ):
        with pytest.raises(ValueError, match=message):
            read_tests(bad)


def test_a_bad_row_is_named(write_jsonl):
    with pytest.raises(ValueError, match="row 1: it has no tests"):
        CodeEnv(write_jsonl(ADD, {**ADD, "tests": "[]"}))
    with pytest.raises(ValueError, match="row 0: its entry point must be a Python name, got 'a b'"):
        CodeEnv(write_jsonl({**ADD, "entry_point": "a b"}))
    with pytest.raises(ValueError, match="no column 'tests'; did you mean 'test'"):
        CodeEnv(write_jsonl({"problem": "p", "test": "assert f()", "entry_point": "f"}))


def test_bad_settings_are_refused(path):
    with pytest.raises(ValueError, match="did you mean 'chat'"):
        CodeEnv(path, prompt="chatt")
    with pytest.raises(ValueError, match="verify_workers must be >= 1, got 0"):
        CodeEnv(path, verify_workers=0)
    with pytest.raises(ValueError, match="pass unsafe=True"):
        CodeEnv(path, mechanism="unsafe")


def test_prompts_name_the_function(path, write_jsonl):
    env = CodeEnv(path)
    prompt, info = env.reset(options={"index": 0})
    assert "Add two numbers." in prompt and "`add`" in prompt and "messages" not in info
    prompt, info = CodeEnv(path, prompt="chat").reset(options={"index": 0})
    assert info["messages"] == [{"role": "user", "content": prompt}]
    assert CodeEnv(path, prompt="{problem} {x} as {entry_point}").reset(options={"index": 1})[0] == (
        "Square a number. {x} as square"
    )
    no_solution = {key: value for key, value in ADD.items() if key != "solution"}
    assert CodeEnv(write_jsonl(no_solution, name="bare.jsonl")).gold_response(0) is None


def test_parquet_rows_with_nested_tests_are_read(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist([ADD]), file)
    env = CodeEnv(str(file))
    assert step(env, 0, env.gold_response(0) or "")[0] == 1.0


def test_the_environment_pickles_and_threads_share_its_slots(path):
    env = pickle.loads(pickle.dumps(CodeEnv(path, verify_workers=2)))
    rows = [(i % 2, env.gold_response(i % 2 if i < 6 else 1 - i % 2) or "") for i in range(8)]

    def one(row: tuple[int, str]) -> float:
        return step(CodeEnv(path, verify_workers=2), *row)[0]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(one, rows)) == [1.0] * 6 + [0.0] * 2
    assert sandbox_processes() == []


REFUSED = """
import logging, sys
from tgpo_ray.envs.sandbox import seccomp, syscalls
numbers = {"x86_64": (272, 444), "aarch64": (97, 444)}[seccomp.machine()]  # unshare, landlock_create_ruleset
rules = b"".join(seccomp.verdict(number, seccomp.ABSENT) for number in numbers)
syscalls.prctl("PR_SET_NO_NEW_PRIVS", syscalls.PR_SET_NO_NEW_PRIVS, 1)
syscalls.seccomp(seccomp.program(rules, seccomp.ALLOW))
from tgpo_ray.envs.code_env import CodeEnv
logging.basicConfig(format="%(levelname)s %(message)s")
env = CodeEnv(sys.argv[1], unsafe=sys.argv[2] == "unsafe", deadline_s=20.0)
env.reset(options={"index": 0})
print(env.step(env.gold_response(0))[4])
"""


def test_without_a_sandbox_it_refuses_to_start_and_names_what_is_missing(path):
    """In a process whose kernel, so it seems, knows neither namespaces nor Landlock."""
    command = [sys.executable, "-c", textwrap.dedent(REFUSED), path]
    done = subprocess.run([*command, "safe"], cwd=ROOT, capture_output=True, text=True)
    error = done.stderr.splitlines()[-1]
    assert SandboxUnavailableError.__name__ in error
    assert "unshare(CLONE_NEW" in error and "landlock_create_ruleset: Function not implemented" in error
    assert "unsafe=True" in error
    done = subprocess.run([*command, "unsafe"], cwd=ROOT, capture_output=True, text=True)
    assert "'outcome': 'correct'" in done.stdout
    assert "WARNING tgpo/Code-v0 runs the policy's code without a sandbox" in done.stderr


def test_unsafe_keeps_the_sandbox_where_one_works(path, caplog):
    with caplog.at_level(logging.WARNING):
        assert CodeEnv(path, unsafe=True).sandbox.mechanism in MECHANISMS
    assert caplog.records == []


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200) | st.text("()[]{}:\n =abcdef0123'\"\\\0\ud800é∑", max_size=80).map(block))
def test_no_text_raises_and_every_outcome_is_typed(path, text):
    reward, info = step(CodeEnv(path, deadline_s=5.0), 0, text)
    assert info["outcome"] in {"correct", "wrong", "unparsable"}, info
    assert reward == float(info["outcome"] == "correct")


@pytest.mark.parametrize("text", ["x = 1\n" * 200_000, "(" * 1_000_000, "#" * 8_000_000, "x = " + "-" * 100_000 + "1"])
def test_megabytes_of_code_stay_within_the_deadline(path, text):
    reward, info = step(CodeEnv(path, deadline_s=3.0), 0, block(text))
    assert reward == 0.0 and info["outcome"] in {"wrong", "unparsable"}, info
    assert info["verify_s"] < 30
