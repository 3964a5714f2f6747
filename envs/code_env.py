"""`tgpo/Code-v0`: Python functions against unit tests, in a sandbox."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from keyword import iskeyword

import numpy as np

from .base import Message, Problem, SingleTurnEnv
from .cells import prompt_cell, text_cell
from .code_blocks import answer_block
from .code_tests import Test, checked_python, checked_tests, function_name, read_tests
from .format_gate import NO_THOUGHT, FormatGate
from .hints import nearest
from .options import takes
from .prompts import FIELD, PromptTemplate
from .row_options import RowOptions
from .row_store import Row
from .sandbox.slots import slot
from .sandbox_options import SandboxOptions
from .verdict import CORRECT, UNPARSABLE, Verdict

MAX_EXTRACTED = 10_000  # characters of the code that `info` carries
REQUIRED, OPTIONAL = ("problem", "tests"), ("entry_point", "solution", "setup")
STYLES = ("plain", "chat")
INSTRUCTION = "Write the Python function `{entry_point}`. Put the complete code in one ```python block."


@dataclass(frozen=True, kw_only=True)
class CodeOptions(SandboxOptions, RowOptions):
    """Options of `tgpo/Code-v0`. The columns are `problem`, `tests`; optionally `entry_point`, `solution`, `setup`."""

    prompt: str = "plain"
    """`plain`, `chat`, or a text with `{problem}` in it, and optionally `{entry_point}`."""
    partial_credit: bool = False
    """The reward is the share of the tests that pass, and 0.0 when time runs out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt not in STYLES and FIELD not in self.prompt:
            hint = nearest(self.prompt, STYLES)
            raise ValueError(f"prompt must be plain, chat or a text with {FIELD} in it, got {self.prompt!r}{hint}")


@dataclass(frozen=True, slots=True)
class CodeRow:
    """One problem. `setup` is Python that runs before every test; `solution` is code that passes them."""

    problem: str | tuple[Message, ...]
    tests: list[Test]
    entry_point: str
    solution: str | None = None
    setup: str = ""


class CodeEnv(SingleTurnEnv):
    """Coding problems of a file or data set; the code of the response is run against their tests.

    The code is the last ```python block that defines the entry point, after a thought where there is one. Rows have
    `problem`, `tests` (see `read_tests`) and `entry_point`, unless the tests name it as `fn_name`. They may have
    `solution` and `setup`. A test that no code can fail is refused. The code sees neither the tests nor what they
    expect. Tests see plain data: a value of the code's own class can be called and read, but not compared. The reward
    is 1.0 when every test passes. `CodeOptions` lists the arguments.

    Time is part of the task, as it is with any judge. Code that does not end within `deadline_s` is the policy's wrong
    answer, with `reward_parts["in_time"]` 0.0 and a detail that begins with `time limit`. The outcome `error` is for
    what the policy cannot cause: a sandbox that does not start or gives no verdict, a test that cannot be run. The
    limit is wall-clock time, so leave room for the load of `verify_workers` and of the machine's other work.

    Raises:
        SandboxUnavailableError: where no mechanism works and `unsafe` is false; it names what is missing.
        FileNotFoundError, ValueError: for a file that is missing, empty, lacks a column, or has invalid tests.
    """

    @takes(CodeOptions)
    def __init__(self, options: CodeOptions) -> None:
        super().__init__()
        self.options, self.gate = options, FormatGate()
        self.sandbox = options.sandbox()
        self._rows = options.read_as(_code_row, REQUIRED, OPTIONAL)
        self.num_problems = len(self._rows)

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """Row `index` of the file; the problem's answer is its solution, or "" where it has none."""
        row, answer = self._rows[index], self._rows[index].solution or ""
        if not isinstance(row.problem, str):  # the data set's own words
            return PromptTemplate(self.options.prompt).problem_of(row.problem, answer, row=index)
        text = self._text(row.problem, row.entry_point)
        messages = ({"role": "user", "content": text},) if self.options.prompt == "chat" else None
        return Problem(text, answer, messages, {"row": index})

    def gold_response(self, index: int) -> str | None:
        """The row's `solution` in a block, after a closed thought where the prompt opens one, or None without one."""
        solution = self._rows[index].solution
        return None if solution is None else f"{self.gate.empty_thought}```python\n{solution.rstrip()}\n```"

    def verify(self, problem: Problem, response: str) -> Verdict:
        """Extracts the code and runs it against the row's tests."""
        row, partial = self._rows[problem.extra["row"]], self.options.partial_credit
        text = self.gate.scored_text(response)
        if text is None:  # a draft within an unfinished thought is no answer
            return Verdict(0.0, UNPARSABLE, detail=NO_THOUGHT)
        code = answer_block(text, row.entry_point)
        if code is None:
            return Verdict(0.0, UNPARSABLE, detail="no closed ```python block in the response")
        with slot(self.options.verify_workers):  # the deadline runs in the sandbox, so waiting here costs no time of it
            verdict = self.sandbox.run(code, row.entry_point, row.tests, setup=row.setup, run_all=partial)
        parts = {"accuracy": float(verdict.outcome == CORRECT), "tests_passed": verdict.score, **verdict.parts}
        score = verdict.score if partial else parts["accuracy"]
        return replace(verdict, score=score, extracted=code[:MAX_EXTRACTED], parts=parts)

    def _text(self, problem: str, entry_point: str) -> str:
        prompt = self.options.prompt
        if FIELD in prompt:
            # Not str.format: code in a prompt has braces too.
            return prompt.replace(FIELD, problem).replace("{entry_point}", entry_point)
        instruction = INSTRUCTION.replace("{entry_point}", entry_point)
        if prompt == "chat":
            return f"{problem}\n\n{instruction}"
        return f"Problem:\n{problem}\n\n{instruction}\n\nSolution:\n"


def _code_row(row: Row) -> CodeRow:
    setup = checked_python("" if row["setup"] is None else text_cell(row, "setup"))
    entry_point = _entry_point(row)
    tests = checked_tests(read_tests(row["tests"]), entry_point, setup)
    json.dumps(tests)  # raises here, and not at the first response, for values that cannot reach the sandbox
    solution = None if row["solution"] is None else text_cell(row, "solution")
    return CodeRow(prompt_cell(row, "problem"), tests, entry_point, solution, setup)


def _entry_point(row: Row) -> str:
    """The row's entry point, or the function that its tests name; both must agree where both are there."""
    named = function_name(row["tests"])
    column = "" if row["entry_point"] is None else text_cell(row, "entry_point").strip()
    if named and column and named != column:
        raise ValueError(f"its entry point is {column!r}, and its tests call {named!r}: write the same name")
    entry_point = column or named
    if not entry_point:
        raise ValueError(
            "it has no entry point: name the function in the column `entry_point`, or in the tests' fn_name"
        )
    if not entry_point.isidentifier() or iskeyword(entry_point):
        raise ValueError(f"its entry point must be a Python name, got {entry_point!r}")
    return entry_point
