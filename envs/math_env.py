"""`tgpo/Math-v0`: mathematics problems from a file, scored by rules of answers that read formulas with math-verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .base import Message, Problem, SingleTurnEnv
from .cells import answer_cell, prompt_cell
from .conversations import continued, text_of
from .options import takes
from .prompt_options import PromptOptions
from .row_options import RowOptions
from .row_store import Row
from .verdict import Verdict
from .verifiers import VerifierOptions
from .verifiers.math_answer import check_gold

# By file path: a worker that imports it by name would import this package, gymnasium and numpy with it.
MATH_ANSWER = f"{Path(__file__).parent / 'verifiers' / 'math_answer' / '__init__.py'}:score"
GSM8K_MARKER = "#### "  # GSM8K's own files end a worked solution with it and the answer


@dataclass(frozen=True, kw_only=True)
class MathOptions(VerifierOptions, PromptOptions, RowOptions):
    """Options of `tgpo/Math-v0`. The columns are `problem` and `answer`, and optionally `tolerance`."""

    tolerance: float | None = None
    """How far the answer's numbers may be off, as an absolute amount. null: not at all. A row's own column `tolerance`
    wins: a number, or a list with one number for each value of the gold answer."""
    rounding: int = 6
    """Significant digits to which decimals must agree: they may differ by 10^-rounding of the larger. Numbers without a
    decimal point are compared exactly."""
    require_box: bool = False
    """Only `\\boxed{}` is an answer. false: without a box, what is stated after `answer is`, else the last formula or
    number."""
    set_relations: bool = False
    """An inequality may answer for an interval: `-2 <= x <= 7` for `[-2, 7]`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.tolerance is not None and self.tolerance < 0) or self.rounding < 0:
            raise ValueError(f"tolerance and rounding must be >= 0, got {self.tolerance} and {self.rounding}")


@dataclass(frozen=True, slots=True)
class MathRow:
    """One row of the file as `tgpo/Math-v0` reads it."""

    problem: str | tuple[Message, ...]
    answer: str  # without GSM8K's worked solution
    tolerance: float | list[float] | None


class MathEnv(SingleTurnEnv):
    """Problems and gold answers of a jsonl or parquet file, or of a Hugging Face data set.

    `MathOptions` lists the arguments.

    Raises:
        FileNotFoundError, ValueError: for a file or data set that is missing, empty, or lacks a column, and for a gold
            answer that cannot be read whole.
        ImportError: without math-verify, or for a data set without `datasets`.
    """

    @takes(MathOptions)
    def __init__(self, options: MathOptions) -> None:
        super().__init__()
        if find_spec("math_verify") is None:  # only looked for: it loads sympy, which only the workers need
            raise ImportError("tgpo/Math-v0 scores with math-verify: pip install math-verify")
        self.options, self.deadline_s = options, options.deadline_s
        self.template, self.gate = options.template, options.gate
        self._rows = options.read_as(_math_row, required=("problem", "answer"), optional=("tolerance",))
        self.num_problems = len(self._rows)

    def row(self, index: int) -> tuple[str, str]:
        """Problem and gold answer of row `index` of the file. Of a conversation it is the text."""
        row = self._rows[index]
        return text_of(row.problem), row.answer

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """Row `index` of the file as a prompt."""
        return self.problem_with(index, "")

    def problem_with(self, index: int, instruction: str) -> Problem:
        """Row `index` with `instruction` after the text of its problem."""
        row = self._rows[index]
        extra = {} if row.tolerance is None else {"tolerance": row.tolerance}
        return self.template.problem_of(continued(row.problem, instruction), row.answer, **extra)

    def gold_response(self, index: int) -> str:
        r"""The gold answer in `\boxed{}`, after a closed thought where the format gate wants one."""
        return f"{self.gate.empty_thought}The final answer is \\boxed{{{self._rows[index].answer}}}."

    def verify(self, problem: Problem, response: str) -> Verdict:
        r"""Format gate, then the answer of the text against the gold answer, in a process that can be killed.

        The gate is that of the paper's reward: `<think>` (prepended where the prompt has it) and `</think>` must both
        occur, and the text between the first `</think>` and the next is read. The last box is the answer, with boxes
        that only `and`, commas and blanks join to it. `docs/environments.md` states what counts as the same answer.
        """
        text = self.gate.scored_text(response)
        if text is None:
            return self.gate.refusal()
        options = self.options
        settings = {
            "tolerance": options.tolerance,
            "rounding": options.rounding,
            "set_relations": options.set_relations,
            "require_box": options.require_box,
            **problem.extra,  # the row's own tolerance wins
        }
        verdict = options.verify(MATH_ANSWER, problem.answer, text, settings)
        return replace(verdict, parts=self.gate.parts(verdict.score))


def _math_row(row: Row) -> MathRow:
    answer = answer_cell(row, "answer").rpartition(GSM8K_MARKER)[2].strip()  # all of an answer without the marker
    check_gold(answer)
    return MathRow(prompt_cell(row, "problem"), answer, _tolerance(row["tolerance"]))


def _tolerance(value: Any) -> float | list[float] | None:
    """A row's tolerance: a number, several, or text that holds them, as OlympiadBench's column `error`."""
    if value is None or value == "":
        return None
    parts = value.split(",") if isinstance(value, str) else list(value) if isinstance(value, Sequence) else [value]
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or min(numbers) < 0:
        raise ValueError(f"a tolerance must be a number >= 0 or a list, got {value!r}")
    return numbers[0] if len(numbers) == 1 else numbers
