"""`tgpo/Code-v0`: Python functions against unit tests, in a sandbox."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .base import Problem, SingleTurnEnv
from .code_tests import Test, checked_python, last_python_block, read_tests
from .prompts import FIELD
from .rows import checked_columns, read_rows, require_columns
from .sandbox import UNSAFE, Sandbox, SandboxUnavailableError
from .sandbox.slots import slot
from .verdict import CORRECT, UNPARSABLE, Verdict

log = logging.getLogger(__name__)

DEFAULT_DEADLINE_S = 5.0
MAX_EXTRACTED = 10_000  # characters of the code that `info` carries
REQUIRED, OPTIONAL = ("problem", "tests", "entry_point"), ("solution", "setup")
INSTRUCTION = "Write the Python function `{entry_point}`. Put the complete code in one ```python block."


@dataclass(frozen=True, slots=True)
class CodeRow:
    """One problem. `setup` is Python that runs before every test; `solution` is code that passes them."""

    problem: str
    tests: list[Test]
    entry_point: str
    solution: str | None = None
    setup: str = ""


class CodeEnv(SingleTurnEnv):
    """Coding problems of a file or data set; the last ```python block of the response is run against their tests.

    Rows have `problem`, `tests` (see `read_tests`) and `entry_point`, and may have `solution` and `setup`. The
    code sees neither the tests nor what they expect, and tests see plain data: a value of its own class can be called
    and read, but not compared. The reward is 1.0 when every test passes.

    Time is part of the task, as it is with any judge: code that does not end within `deadline_s` is the policy's wrong
    answer, told apart by `reward_parts["in_time"]` 0.0 and a detail that begins with `time limit`. `error` is kept for
    what the policy cannot bring about: a sandbox that does not start or gives no verdict, a test that cannot be run.
    The limit is of the clock, so leave room for the load that `verify_workers` and the machine's other work make.

    Args:
        path, subset, split: the file or data set, as in `tgpo/Math-v0`.
        prompt: `plain`, `chat`, or a text with `{problem}` in it, and `{entry_point}` where it likes.
        columns: names of the file's columns, `{"problem": "text", "solution": "code"}`.
        partial_credit: the reward is the share of the tests that pass, 0.0 when time runs out.
        deadline_s: seconds that the code and all tests of one response may take.
        memory_bytes, output_bytes: address space of the code, and size of one value that it returns.
        verify_workers: sandboxes of this Python process that run at once.
        mechanism: how to confine the code, one of `sandbox.MECHANISMS`; None: the first that works here.
        unsafe: where none works, run the code with limits on time, memory and output alone.

    Raises:
        SandboxUnavailableError: where no mechanism works and `unsafe` is false; it names what is missing.
        FileNotFoundError, ValueError: for a file that is missing, empty, lacks a column, or has tests that are none.
    """

    def __init__(
        self,
        path: str,
        *,
        prompt: str = "plain",
        columns: Mapping[str, str] | None = None,
        subset: str | None = None,
        split: str | None = None,
        partial_credit: bool = False,
        deadline_s: float = DEFAULT_DEADLINE_S,
        memory_bytes: int = 512 << 20,
        output_bytes: int = 1 << 20,
        verify_workers: int = 1,
        mechanism: str | None = None,
        unsafe: bool = False,
    ) -> None:
        super().__init__()
        if verify_workers < 1:
            raise ValueError(f"verify_workers must be >= 1, got {verify_workers}: somebody has to do the work")
        self.prompt = _checked_prompt(prompt)
        self.partial_credit = partial_credit
        self.verify_workers = verify_workers
        self.sandbox = _sandbox(mechanism, unsafe, deadline_s, memory_bytes, output_bytes)
        names = checked_columns(columns, (*REQUIRED, *OPTIONAL))
        rows = read_rows(path, subset=subset, split=split)
        require_columns(rows, {meaning: names[meaning] for meaning in REQUIRED}, path)
        self._rows = [_read_row(row, names, path, number) for number, row in enumerate(rows)]
        self.num_problems = len(self._rows)

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """Row `index` of the file; the problem's answer is its solution, or "" where it has none."""
        row = self._rows[index]
        text = self._text(row)
        messages = ({"role": "user", "content": text},) if self.prompt == "chat" else None
        return Problem(text, row.solution or "", messages, {"row": index})

    def gold_response(self, index: int) -> str | None:
        """The row's `solution` in a block, or None where it has none."""
        solution = self._rows[index].solution
        return None if solution is None else f"```python\n{solution.rstrip()}\n```"

    def verify(self, problem: Problem, response: str) -> Verdict:
        """Extracts the code and runs it against the row's tests."""
        code = last_python_block(response)
        if code is None:
            return Verdict(0.0, UNPARSABLE, detail="no closed ```python block in the response")
        row = self._rows[problem.extra["row"]]
        with slot(self.verify_workers):
            verdict = self.sandbox.run(code, row.entry_point, row.tests, setup=row.setup, run_all=self.partial_credit)
        parts = {"accuracy": float(verdict.outcome == CORRECT), "tests_passed": verdict.score, **verdict.parts}
        score = verdict.score if self.partial_credit else parts["accuracy"]
        return replace(verdict, score=score, extracted=code[:MAX_EXTRACTED], parts=parts)

    def _text(self, row: CodeRow) -> str:
        if FIELD in self.prompt:
            return self.prompt.replace(FIELD, row.problem).replace("{entry_point}", row.entry_point)
        instruction = INSTRUCTION.replace("{entry_point}", row.entry_point)
        if self.prompt == "chat":
            return f"{row.problem}\n\n{instruction}"
        return f"Problem:\n{row.problem}\n\n{instruction}\n\nSolution:\n"


def _sandbox(mechanism: str | None, unsafe: bool, deadline_s: float, memory_bytes: int, output_bytes: int) -> Sandbox:
    if mechanism == UNSAFE:
        raise ValueError("mechanism must be a sandbox, got 'unsafe': pass unsafe=True for none where none works")
    try:
        return Sandbox(mechanism, deadline_s, memory_bytes, output_bytes)
    except SandboxUnavailableError as failure:
        if not unsafe:
            raise SandboxUnavailableError(
                f"{failure}. tgpo/Code-v0 runs code that a model wrote and does not start without a sandbox: allow one "
                "(unprivileged user namespaces, or Linux 6.2 with Landlock and seccomp), or pass unsafe=True"
            ) from failure
        log.warning("tgpo/Code-v0 runs the policy's code without a sandbox, as unsafe=True says: %s", failure)
        return Sandbox(UNSAFE, deadline_s, memory_bytes, output_bytes)


def _checked_prompt(prompt: str) -> str:
    if prompt in ("plain", "chat") or FIELD in prompt:
        return prompt
    near = difflib.get_close_matches(prompt, ("plain", "chat"), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"prompt must be plain, chat or a text with {FIELD} in it, got {prompt!r}{hint}")


def _read_row(row: Mapping[str, Any], names: Mapping[str, str], path: str, number: int) -> CodeRow:
    try:
        tests = read_tests(row[names["tests"]])
        json.dumps(tests)
        setup = checked_python(str(row.get(names["setup"]) or ""))
        entry_point = str(row[names["entry_point"]]).strip()
        if not entry_point.isidentifier():
            raise ValueError(f"its entry point must be a Python name, got {entry_point!r}")
    except (ValueError, TypeError) as failure:
        raise ValueError(f"data set {path!r}, row {number}: {failure}") from failure
    solution = row.get(names["solution"])
    return CodeRow(str(row[names["problem"]]), tests, entry_point, None if solution is None else str(solution), setup)
