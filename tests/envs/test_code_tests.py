"""What is the answer of a response and a test of it: blocks, tests that check nothing, layouts, own errors."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest

from tests.envs.single_step import step
from tgpo_ray.envs.code_blocks import answer_block, python_blocks
from tgpo_ray.envs.code_env import CodeEnv
from tgpo_ray.envs.code_tests import checked_tests, function_name, read_tests
from tgpo_ray.envs.sandbox import MECHANISMS, why_not

needs_sandbox = pytest.mark.skipif(
    sys.platform != "linux" or all(map(why_not, MECHANISMS)), reason="no sandbox works on this machine"
)

ADD = "def add(a, b):\n    return a + b\n"
NONSENSE = "def add(*a, **k):\n    return 'nonsense'\n"


def block(code: str) -> str:
    return f"```python\n{code}```\n"


def checked(value: Any, setup: str = "") -> list[dict[str, Any]]:
    return checked_tests(read_tests(value), "add", setup)


@pytest.mark.parametrize(
    "response",
    [
        f"1. So:\n\n   ```python\n{''.join(f'   {line}' for line in ADD.splitlines(keepends=True))}   ```",
        f"- ```python\n{''.join(f'  {line}' for line in ADD.splitlines(keepends=True))}  ```",
        f"```python title=add.py\n{ADD}```",
        f"```python,linenos\n{ADD}```",
        f"```{{.python .numberLines}}\n{ADD}```",
        f"~~~ Python3\n{ADD}~~~",
        f"````python\n{ADD}````",
        f"```python\r\n{ADD}```\r\n",
        f"```python\n{''.join(f'    {line}' for line in ADD.splitlines(keepends=True))}```",
    ],
)
def test_code_is_taken_from_a_fence_of_any_form(response: str) -> None:
    assert list(python_blocks(response)) == [ADD]


@pytest.mark.parametrize(
    "code",
    [
        'def add(a, b):\n    """Sum.\n\n    ```python\n    add(1, 2)\n    ```\n    """\n    return a + b\n',
        "'''\n```\nadd\n```\n'''\ndef add(a, b): return a + b\n",
        "x = 'it''s'  # don't\n",
        "separators = '\u2028\u2029\x0c\x0b\x85\x1c'\n",
        "\x0c\ndef add(a, b): return a + b\n",
    ],
)
def test_code_is_intact_whatever_its_strings_hold(code: str) -> None:
    assert list(python_blocks(f"So:\n{block(code)}That is all.\n")) == [code]


def test_a_string_that_never_closes_hides_no_later_block() -> None:
    assert list(python_blocks("```python\nx = '''\n```\nNo:\n```python\ny = 1\n```")) == ["x = '''\n", "y = 1\n"]


@pytest.mark.parametrize(
    "usage",
    ["print(add(1, 2))\n", "from solution import add\nassert add(1, 2) == 3\n", "x = add(1, 2)\n", ">>> add(1, 2)\n3\n",
     "class TestAdd:\n    def test_add(self): assert add(1, 2) == 3\n", "def readd(): return add == 1\n"],
)  # fmt: skip
def test_a_block_that_only_uses_the_solution_is_not_the_answer(usage: str) -> None:
    assert answer_block(block(ADD) + "For example:\n" + block(usage), "add") == ADD


@pytest.mark.parametrize(
    "solution",
    [ADD, "add = lambda a, b: a + b\n", "add: object = sum\n", "class add:\n    pass\n", "async def add(): pass\n",
     "class Solution:\n    def add(self, a, b): return a + b\n", "if True:\n    def add(a, b): return a + b\n",
     "def add(a, b:\n"],
)  # fmt: skip
def test_the_last_block_that_defines_what_the_tests_call_is_the_answer(solution: str) -> None:
    draft = block("def add(a, b): return 0\n")
    assert answer_block(draft + block(solution) + block("add(1, 2)\n"), "add") == solution


def test_without_a_definition_an_import_and_then_the_last_block_counts() -> None:
    usage = block("print(add(1, 2))\n")
    assert answer_block(block("from operator import add\n") + usage, "add") == "from operator import add\n"
    assert answer_block(block("x = 1\n") + usage, "add") == "print(add(1, 2))\n"
    assert answer_block("no code", "add") is None


@pytest.mark.parametrize(
    "response",
    ["```python\n" * 50_000, "```python\nx='''\n```\n" * 30_000, '```python\n\\"""\n```\n' * 30_000, "`" * 10**6,
     "```python\n" + "'" * 10**6 + "\n```", "```python\n" + "\\" * 10**6 + "\n```", "1" * 10**6,
     "```python\n" + "import " + "add" * 10**5 + " " * 10**6 + "\n```", "```python\nadd" + " " * 10**6 + "\n```"],
)  # fmt: skip
def test_finding_the_answer_takes_linear_time(response: str) -> None:
    start = time.monotonic()
    answer_block(response, "add")
    assert time.monotonic() - start < 5


NOTHING = {
    "a bare comparison": "add(1, 2) == 3",
    "a comment": "# add(1, 2) is 3",
    "pass": "pass",
    "a call": "add(1, 2)",
    "a print": "print(add(1, 2))",
    "an assignment": "result = add(1, 2) == 3",
    "a docstring": '"""assert add(1, 2) == 3"""',
    "a function that nobody calls": "def verify():\n    assert add(1, 2) == 3",
    "a lambda that nobody calls": "run = lambda: check(add)",
    "a class that nobody calls": "class Cases:\n    def run(self):\n        assert add(1, 2) == 3",
    "a class of unittest": "import unittest\nclass T(unittest.TestCase):\n    def test_add(self):\n"
    "        self.assertEqual(add(1, 2), 3)\nif __name__ == '__main__':\n    unittest.main()",
    "asserts behind a main guard": "if __name__ == '__main__':\n    assert add(1, 2) == 3",
    "an assert that is always true": "add(1, 2)\nassert True",
    "an assert of a pair": "assert (add(1, 2) == 3, 'wrong')",
    "a test without the candidate": "assert 1 + 2 == 3",
    "a test of another name": "assert sum_of(1, 2) == 3",
    "a pytest function that asserts nothing": "def test_add():\n    add(1, 2)",
    "a check that asserts nothing": "def check(candidate):\n    candidate(1, 2) == 3",
}


@pytest.mark.parametrize("test", NOTHING.values(), ids=NOTHING)
def test_a_test_that_no_candidate_can_fail_is_refused_at_load_with_its_row(test: str, write_jsonl: Any) -> None:
    rows = [{"problem": "p", "tests": tests, "entry_point": "add"} for tests in ("assert add(1, 2) == 3", test)]
    with pytest.raises(ValueError, match=r"row 1: its test .*(checks nothing|nobody calls)") as caught:
        CodeEnv(write_jsonl(*rows))
    assert "assert" in str(caught.value)  # the fix


CHECKS = {
    "an assert": ("assert add(1, 2) == 3", ""),
    "an assert in a loop": ("for a in range(3):\n    assert add(a, 1) == a + 1", ""),
    "a raise": ("if add(1, 2) != 3:\n    raise ValueError('wrong')", ""),
    "a function that is called": ("def verify(f):\n    assert f(1, 2) == 3\nverify(add)", ""),
    "a function that is handed on": ("def one(c):\n    assert add(*c[:2]) == c[2]\nlist(map(one, [(1, 2, 3)]))", ""),
    "a function of the setup": ("near(add(1, 2), 3)", "def near(a, b):\n    assert abs(a - b) < 1e-9"),
    "a method of a class that is made": ("class C:\n    def go(self):\n        assert add(1, 2) == 3\nC().go()", ""),
    "unittest's asserts": ("import unittest\nunittest.TestCase().assertEqual(add(1, 2), 3)", ""),
    "an exception that is expected": ("try:\n    add(1)\nexcept TypeError:\n    pass\nelse:\n    assert False", ""),
    "exec": ("exec('assert add(1, 2) == 3')", ""),
    "HumanEval's check": ("def check(candidate):\n    assert candidate(1, 2) == 3", ""),
    "HumanEval's check, called": ("def check(candidate):\n    assert candidate(1, 2) == 3\ncheck(add)", ""),
    "a pytest function": ("def test_add():\n    assert add(1, 2) == 3", ""),
    "a pytest function with the candidate": ("def test_add(candidate):\n    assert candidate(1, 2) == 3", ""),
    "a pytest function with it by name": ("def test_add(add, c=3):\n    assert add(1, 2) == c", ""),
    "a pytest function with an import": ("from solution import add as f\ndef test():\n    assert f(1, 2) == 3", ""),
    "a pytest function with a module": ("import solution\ndef test_add():\n    assert solution.add(1, 2) == 3", ""),
    "APPS": (json.dumps({"inputs": [[1, 2], [0, 3]], "outputs": [3, 3], "fn_name": "add"}), ""),
    "APPS with wrapped outputs": (json.dumps({"inputs": [[1, 2]], "outputs": [[3]], "fn_name": "add"}), ""),
    "LiveCodeBench": (json.dumps({"inputs": ["1\n2", "-1\n4"], "outputs": ["3", "3"], "fn_name": "add"}), ""),
    "LiveCodeBench's rows": (json.dumps([{"input": "1\n2", "output": "3", "testtype": "functional"}]), ""),
}  # fmt: skip


@needs_sandbox
@pytest.mark.parametrize(("test", "setup"), CHECKS.values(), ids=CHECKS)
def test_a_test_that_checks_scores_a_right_answer_one_and_nonsense_zero(
    test: str, setup: str, write_jsonl: Any
) -> None:
    env = CodeEnv(write_jsonl({"problem": "p", "tests": test, "entry_point": "add", "setup": setup}))
    assert step(env, 0, block(ADD))[1]["outcome"] == "correct"
    reward, info = step(env, 0, block(NONSENSE))
    assert (reward, info["outcome"]) == (0.0, "wrong"), info


def test_each_pytest_function_is_a_test_of_its_own_and_what_the_code_calls_is_not_called_again() -> None:
    code = "def test_a(): assert add(1, 2) == 3\ndef test_b(): assert add(2, 2) == 4"
    assert checked(code) == [{"code": code, "calls": ["test_a"]}, {"code": code, "calls": ["test_b"]}]
    called = "def check(candidate):\n    assert candidate(1, 2) == 3\ncheck(add)"
    assert checked(called) == [{"code": called, "calls": []}]


def test_arguments_that_nobody_gives_are_refused() -> None:
    with pytest.raises(ValueError, match="'test_add' takes 'tmp_path', which nobody gives: fixtures and parameters"):
        checked("def test_add(tmp_path):\n    assert add(1, 2) == 3")
    with pytest.raises(ValueError, match="'test_add' is a coroutine"):
        checked("async def test_add():\n    assert add(1, 2) == 3")


def test_layouts_of_other_data_sets_are_read() -> None:
    def case(expected: Any, *args: Any, **more: Any) -> dict[str, Any]:
        return {"args": list(args), "kwargs": {}, "expected": expected, **more}

    apps = {"inputs": [[[1], "a"], [[], "b"]], "outputs": [[1, 2], []], "fn_name": "f"}
    assert read_tests(apps) == read_tests(json.dumps(apps)) == [case([1, 2], [1], "a"), case([], [], "b")]
    assert read_tests({**apps, "outputs": [[1], [[2]]]}) == [
        case([1], [1], "a", wrapped=True), case([[2]], [], "b", wrapped=True)
    ]  # fmt: skip
    lines = {"inputs": ['[1]\n"a"'], "outputs": ["[3]"], "fn_name": "f"}
    assert read_tests(lines) == [case([3], [1], "a")]
    assert function_name(json.dumps(apps)) == "f" and function_name(["assert f()"]) is None


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ({"inputs": ["1\n"], "outputs": ["2\n"]}, "no 'fn_name': they are for a program that reads stdin"),
        ({"inputs": [[1], [2]], "outputs": [1], "fn_name": "f"}, "2 inputs and 1 outputs"),
        ({"inputs": ["1 2"], "outputs": ["3"], "fn_name": "f"}, "must be JSON, one argument a line"),
        ({"inputs": [], "outputs": [], "fn_name": "f"}, "no tests"),
        ({"inputs": [3], "outputs": [3], "fn_name": "f"}, "a list or a mapping of arguments"),
        ({"answer": 3}, "a test must be Python code"),
    ],
)
def test_a_layout_that_cannot_be_run_is_refused_with_the_reason(tests: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_tests(json.dumps(tests))


def test_the_tests_may_name_the_function_and_must_not_contradict_the_column(write_jsonl: Any) -> None:
    row = {"problem": "p", "tests": json.dumps({"inputs": [[1, 2]], "outputs": [3], "fn_name": "add"})}
    assert "`add`" in CodeEnv(write_jsonl(row)).reset(options={"index": 0})[0]
    with pytest.raises(ValueError, match="its entry point is 'plus', and its tests call 'add'"):
        CodeEnv(write_jsonl({**row, "entry_point": "plus"}, name="other.jsonl"))
    with pytest.raises(ValueError, match="it has no entry point"):
        CodeEnv(write_jsonl({"problem": "p", "tests": "assert add(1, 2) == 3"}, name="none.jsonl"))


@needs_sandbox
def test_a_method_of_a_class_solution_is_called_on_a_new_instance(write_jsonl: Any) -> None:
    tests = {"inputs": [[1, 2], [3, 4]], "outputs": [3, 7], "fn_name": "add"}
    env = CodeEnv(write_jsonl({"problem": "p", "tests": json.dumps(tests)}))
    methods = "class Solution:\n    calls = 0\n    def add(self, a, b):\n        self.calls += 1\n"
    assert step(env, 0, block(f"{methods}        return a + b if self.calls == 1 else 0\n"))[0] == 1.0
    assert step(env, 0, block(f"{methods}        return a - b\n"))[1]["outcome"] == "wrong"
    assert "does not define 'add'" in step(env, 0, block("class Solution:\n    pass\n"))[1]["detail"]


OWN = {
    "a missing module": "import no_such_module\nassert add(1, 2) == 3",
    "a missing module, later": "assert add(1, 2) == 3\nimport no_such_module",
    "a missing module in a function": "def test_add():\n    from no_such_module import x\n    assert add(1, 2) == 3",
    "a name that nothing defines": "assert add(1, 2) == EXPECTED",
    "a missing file": "cases = open('/no/such/file.json').read()\nassert add(1, 2) == 3",
    "an error before the candidate is asked": "n = 1 / 0\nassert add(1, 2) == 3",
    "an assert before the candidate is asked": "assert add.__module__ == 'x'\nassert add(1, 2) == 3",
}


@needs_sandbox
@pytest.mark.parametrize("test", OWN.values(), ids=OWN)
def test_an_exception_of_the_tests_own_is_an_error_for_every_candidate(test: str, write_jsonl: Any) -> None:
    rows = {"problem": "p", "tests": ["assert add(0, 3) == 3", test], "entry_point": "add"}
    env = CodeEnv(write_jsonl(rows), partial_credit=True)
    for code in (ADD, "def add(a, b): return 3\n"):
        reward, info = step(env, 0, block(code))
        assert (reward, info["outcome"]) == (0.0, "error"), info
        assert "its own code raised" in info["detail"]


@needs_sandbox
def test_an_error_of_the_setup_is_an_error(write_jsonl: Any) -> None:
    row = {"problem": "p", "tests": "assert add(1, 2) == 3", "entry_point": "add", "setup": "import no_such_module"}
    assert step(CodeEnv(write_jsonl(row)), 0, block(ADD))[1]["outcome"] == "error"


POLICYS = {
    "a missing module of the code": ("import no_such_module\n" + ADD, "assert add(1, 2) == 3"),
    "a missing module in the call": ("def add(a, b):\n    import no_such_module\n", "assert add(1, 2) == 3"),
    "a name that the code lacks": ("def add(a, b): return missing\n", "assert add(1, 2) == 3"),
    "a value of another type": ("def add(a, b): return None\n", "assert add(1, 2)['x'] == 3"),
    "a name that the code's exception leaves unbound": (
        "def add(a, b): raise ValueError\n",
        "try:\n    x = add(1, 2)\nexcept ValueError:\n    pass\nassert x == 3",
    ),
    "a name that the solution lacks": (ADD.replace("+", "-"), "from solution import minus, add\nassert add(1, 2) == 3"),
    "a solution that hides its names": (
        "import sys\nclass Hidden:\n    @property\n    def __dict__(self): raise AttributeError('x')\n"
        "sys.modules['candidate'] = Hidden()\n" + ADD,
        "from solution import minus, add\nassert add(1, 2) == 3",
    ),
}


@needs_sandbox
@pytest.mark.parametrize(("code", "test"), POLICYS.values(), ids=POLICYS)
def test_what_the_policy_causes_is_wrong_and_no_error(code: str, test: str, write_jsonl: Any) -> None:
    env = CodeEnv(write_jsonl({"problem": "p", "tests": test, "entry_point": "add"}))
    reward, info = step(env, 0, block(code))
    assert (reward, info["outcome"]) == (0.0, "wrong"), info
