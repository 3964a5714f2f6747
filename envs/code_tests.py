"""Unit tests of a coding problem in the shapes that data sets have, and the code of a response."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

FENCE = "```"
LANGUAGES = ("python", "py", "python3")

Test = dict[str, Any]


def last_python_block(response: str) -> str | None:
    """The code of the last closed fenced block that is marked as Python, or None."""
    code: str | None = None
    lines = response.splitlines()
    begin: int | None = None
    for number, line in enumerate(lines):
        mark = line.strip()
        if not mark.startswith(FENCE):
            continue
        if mark[len(FENCE) :].strip().lower() in LANGUAGES:
            begin = number + 1  # also inside a block: the one before it was never closed
        elif mark == FENCE and begin is not None:  # a bare fence only ends a block; it never begins Python
            code, begin = "\n".join(lines[begin:number]) + "\n", None
    return code


def read_tests(value: Any) -> list[Test]:
    """The tests of one row in the form that the sandbox takes.

        "def check(candidate): ..."              one test: HumanEval's, or any Python that raises on failure
        ["assert f(1) == 2", ...]                one test each, MBPP's
        [{"input": [1], "output": 2}, ...]       positional arguments; a mapping gives keyword arguments
        [[[1], 2], ...]                          the same as pairs

    A text that holds a JSON list is read as that list.

    Raises:
        ValueError: for anything else, for no test at all, and for tests that are not Python.
    """
    tests = [_test(item) for item in _listed(value)]
    if not tests:
        raise ValueError("it has no tests: every response would pass")
    for test in tests:
        if "code" in test:
            checked_python(test["code"])
    return tests


def checked_python(code: str) -> str:
    """`code` itself; raises ValueError where it does not compile."""
    try:
        compile(code, "<test>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as failure:
        raise ValueError(f"its test is no Python: {failure}: {code[:80]!r}") from failure
    return code


def _listed(value: Any) -> Sequence[Any]:
    if not isinstance(value, str):
        return list(value) if isinstance(value, Sequence) else [value]
    # A text is Python code, unless it holds a JSON list: parquet files store the tests so.
    try:
        tests = json.loads(value)
    except ValueError:
        tests = None
    return tests if isinstance(tests, list) else [value]


def _test(item: Any) -> Test:
    if isinstance(item, str):
        return {"code": item}
    if isinstance(item, Mapping) and {"input", "output"} <= set(item):
        inputs, expected = item["input"], item["output"]
    elif isinstance(item, Sequence) and len(item) == 2:
        inputs, expected = item
    else:
        raise ValueError(
            f"a test must be Python code, an {{'input', 'output'}} mapping or an (input, output) pair, got {item!r:.80}"
        )
    if isinstance(inputs, Mapping):
        return {"args": [], "kwargs": dict(inputs), "expected": expected}
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):  # a text would become an argument for each letter
        return {"args": list(inputs), "kwargs": {}, "expected": expected}
    raise ValueError(f"the input of a test must be a list or a mapping of arguments, got {inputs!r:.80}")
