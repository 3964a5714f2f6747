"""Unit tests of a coding problem in the shapes that data sets have, in the form that the sandbox takes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .code_checks import functions_to_call, parsed, why_it_never_fails

Test = dict[str, Any]


def read_tests(value: Any) -> list[Test]:
    """The tests of one row in the form that the sandbox takes.

        "def check(candidate): ..."              HumanEval's, or any Python that raises on failure
        ["assert f(1) == 2", ...]                one test each, MBPP's
        "def test_f(): assert f(1) == 2"         pytest's functions, one test each (`checked_tests` looks for them)
        [{"input": [1], "output": 2}, ...]       positional arguments; a mapping gives keyword arguments
        [[[1], 2], ...]                          the same as pairs
        {"inputs": [[1], ...], "outputs": [2, ...], "fn_name": "f"}    APPS's and TACO's
        {"inputs": ["1\\n[2]", ...], "outputs": ["3", ...], "fn_name": "f"}    LiveCodeBench's: JSON, a line an argument

    A text that holds such a list or mapping as JSON is read as it.

    Raises:
        ValueError: for anything else, for no test at all, and for tests that are not Python.
    """
    value = _unpacked(value)
    if isinstance(value, Mapping) and "inputs" in value and "outputs" in value:
        tests = _parallel(value)
    else:
        tests = [_test(item) for item in (value if _is_list(value) else [value])]
    if not tests:
        raise ValueError("it has no tests: every response would pass")
    for test in tests:
        if "code" in test:
            checked_python(test["code"])
    return tests


def function_name(value: Any) -> str | None:
    """The name of the function that tests in APPS's and LiveCodeBench's layout call, or None where they name none."""
    value = _unpacked(value)
    name = value.get("fn_name") if isinstance(value, Mapping) else None
    return str(name) if name else None


def checked_tests(tests: Sequence[Test], entry_point: str, setup: str) -> list[Test]:
    """The same tests, where each function that the harness has to call is a test of its own.

    Raises:
        ValueError: for a test that no candidate can fail, and one whose functions cannot be called.
    """
    return [run for test in tests for run in (_runs(test, entry_point, setup) if "code" in test else [test])]


def checked_python(code: str) -> str:
    """`code` itself; raises ValueError where it does not compile."""
    try:
        with warnings.catch_warnings():  # of an escape that Python does not know, for each row
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            compile(parsed(code), "<test>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as failure:
        raise ValueError(f"its test is no Python: {failure}: {code[:80]!r}") from failure
    return code


def _runs(test: Test, entry_point: str, setup: str) -> Iterator[Test]:
    code = test["code"]
    # None: the code calls everything itself
    for name in functions_to_call(code, entry_point) or [None]:
        calls = [] if name is None else [name]
        reason = why_it_never_fails(code, setup, entry_point, calls)
        if reason:
            what = f"its test {name or code[:80]!r}"
            raise ValueError(f"{what} checks nothing: {reason}. Write `assert {entry_point}(...) == ...`")
        yield {**test, "calls": calls}


def _unpacked(value: Any) -> Any:
    """The list or mapping that a text holds as JSON, as parquet files store the tests; any other value itself."""
    if not isinstance(value, str):
        return value
    try:
        tests = json.loads(value)
    except ValueError:
        return value
    return tests if isinstance(tests, list | dict) else value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _parallel(value: Mapping[str, Any]) -> list[Test]:
    """Tests of lists of inputs and outputs."""
    inputs, outputs = list(value["inputs"]), list(value["outputs"])
    if not value.get("fn_name"):
        raise ValueError(
            "its tests have inputs and outputs and no 'fn_name': they are for a program that reads stdin; the sandbox "
            "calls functions, so leave such rows out"
        )
    if len(inputs) != len(outputs):
        raise ValueError(f"its tests have {len(inputs)} inputs and {len(outputs)} outputs: one of each is a test")
    if inputs and all(isinstance(item, str) for item in inputs):
        return [_in_json(given, expected) for given, expected in zip(inputs, outputs, strict=True)]
    tests = [_called(given, expected) for given, expected in zip(inputs, outputs, strict=True)]
    # APPS wraps the outputs of some problems in lists of one; its own harness takes the value with and without
    wrapped = all(isinstance(expected, list) and len(expected) == 1 for expected in outputs)
    return [{**test, "wrapped": True} for test in tests] if wrapped else tests


def _in_json(given: str, expected: Any) -> Test:
    """A test whose arguments are lines of JSON, and whose output is JSON."""
    try:
        arguments = [json.loads(line) for line in given.split("\n") if line.strip()]
        return _called(arguments, json.loads(expected) if isinstance(expected, str) else expected)
    except ValueError as failure:
        raise ValueError(
            f"a test's input and output must be JSON, one argument a line: {failure}: {given!r:.80}"
        ) from None


def _test(item: Any) -> Test:
    if isinstance(item, str):
        return {"code": item}
    if isinstance(item, Mapping) and {"input", "output"} <= set(item):
        inputs, expected = item["input"], item["output"]
        if item.get("testtype") == "functional" and isinstance(inputs, str):  # LiveCodeBench's own columns
            return _in_json(inputs, expected)
    elif _is_list(item) and len(item) == 2:
        inputs, expected = item
    else:
        raise ValueError(
            f"a test must be Python code, an {{'input', 'output'}} mapping or an (input, output) pair, got {item!r:.80}"
        )
    return _called(inputs, expected)


def _called(inputs: Any, expected: Any) -> Test:
    if isinstance(inputs, Mapping):
        return {"args": [], "kwargs": dict(inputs), "expected": expected}
    if _is_list(inputs):  # a text would become an argument for each letter
        return {"args": list(inputs), "kwargs": {}, "expected": expected}
    raise ValueError(f"the input of a test must be a list or a mapping of arguments, got {inputs!r:.80}")
