"""`tgpo/Math-v0`: mathematics problems from a file, scored by math-verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .base import Problem, SingleTurnEnv
from .prompts import THINK_CLOSE, PromptTemplate, after_thought, empty_thought
from .rows import checked_columns, read_rows, require_columns
from .verdict import UNPARSABLE, Verdict
from .verifiers import DEFAULT_DEADLINE_S, shared_pool

MATH_ANSWER = f"{Path(__file__).parent / 'verifiers' / 'math_answer.py'}:score"
GSM8K_MARKER = "#### "  # GSM8K's own files end a worked solution with it and the answer


class MathEnv(SingleTurnEnv):
    """Problems and gold answers of a jsonl or parquet file, or of a Hugging Face data set.

    Args:
        path: a jsonl or parquet file, relative to the working folder; or a Hugging Face data set (extra `[datasets]`):
            a name on the hub as `openai/gsm8k`, or a folder.
        prompt: `plain`, `think`, `chat`, or a text with `{problem}` in it.
        system_prompt: replaces the style's own; "" drops it.
        columns: names of the file's columns, `{"problem": "question", "answer": "final"}`; `tolerance` is one that rows
            may do without.
        subset, split: which configuration and split of a Hugging Face data set; None: the only one.
        format_gate: a response scores only when it closes its thought, and only what follows `</think>` is read.
            None: on for prompts that open the thought.
        tolerance: how far the answer's numbers may be off, in absolute terms; None: not at all. A row's own column
            `tolerance` comes first: a number, or a list with one for each value of the gold answer.
        rounding: decimal places to which numbers must agree.
        set_relations: an inequality may answer for an interval, `-2 <= x <= 7` for `[-2, 7]`.
        deadline_s: seconds that one verification may take before its process is killed.
        verify_workers: processes of this Python process's shared verifier pool.

    Raises:
        FileNotFoundError, ValueError: for a file or data set that is missing, empty, or lacks a column.
        ImportError: without math-verify, or for a data set without `datasets`.
    """

    def __init__(
        self,
        path: str,
        *,
        prompt: str = "plain",
        system_prompt: str | None = None,
        columns: Mapping[str, str] | None = None,
        subset: str | None = None,
        split: str | None = None,
        format_gate: bool | None = None,
        tolerance: float | None = None,
        rounding: int = 6,
        set_relations: bool = False,
        deadline_s: float = DEFAULT_DEADLINE_S,
        verify_workers: int = 1,
    ) -> None:
        super().__init__()
        if find_spec("math_verify") is None:
            raise ImportError("tgpo/Math-v0 scores with math-verify: pip install math-verify")
        if deadline_s <= 0 or verify_workers < 1:
            raise ValueError(f"deadline_s must be > 0 and verify_workers >= 1, got {deadline_s} and {verify_workers}")
        self.template = PromptTemplate(prompt, system_prompt)
        self.format_gate = self.template.opens_thought if format_gate is None else format_gate
        if (tolerance is not None and tolerance < 0) or rounding < 0:
            raise ValueError(f"tolerance and rounding must be >= 0, got {tolerance} and {rounding}")
        self.deadline_s = deadline_s
        self.verify_workers = verify_workers
        self._settings = {"tolerance": tolerance, "rounding": rounding, "set_relations": set_relations}
        names = checked_columns(columns, ("problem", "answer", "tolerance"))
        rows = read_rows(path, subset=subset, split=split)
        require_columns(rows, {meaning: names[meaning] for meaning in ("problem", "answer")}, path)
        self._tolerances = [_tolerance(row.get(names["tolerance"]), path, i) for i, row in enumerate(rows)]
        self._rows = [(str(row[names["problem"]]), _gold(str(row[names["answer"]]))) for row in rows]
        self.num_problems = len(self._rows)

    def row(self, index: int) -> tuple[str, str]:
        """Problem and gold answer of row `index` of the file."""
        return self._rows[index]

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """Row `index` of the file as a prompt."""
        problem, answer = self._rows[index]
        extra = {} if self._tolerances[index] is None else {"tolerance": self._tolerances[index]}
        return Problem(self.template.text(problem), answer, self.template.messages(problem), extra)

    def gold_response(self, index: int) -> str:
        r"""The gold answer in `\boxed{}`, after a closed thought where the format gate wants one."""
        thought = empty_thought(opened=self.template.opens_thought) if self.format_gate else ""
        return f"{thought}The final answer is \\boxed{{{self._rows[index][1]}}}."

    def verify(self, problem: Problem, response: str) -> Verdict:
        r"""Format gate, then `verify(parse("$gold$"), parse(text))`, in a process that can be killed.

        The gate is that of the paper's reward: `<think>` (prepended where the prompt has it) and `</think>` must both
        occur, and the text between the first `</think>` and the next is read. Boxes less than 70 characters apart are
        one answer of several values to math-verify; else the last box counts, and without any the last formula.
        """
        text = after_thought(response, opened=self.template.opens_thought) if self.format_gate else response
        if text is None:
            parts = {"accuracy": 0.0, "format": 0.0}
            return Verdict(0.0, UNPARSABLE, detail=f"no closed <think> ... {THINK_CLOSE} section", parts=parts)
        pool = shared_pool(self.verify_workers)
        settings = {**self._settings, **problem.extra}
        verdict = pool.verify(MATH_ANSWER, problem.answer, text, settings, deadline_s=self.deadline_s)
        parts = {"accuracy": verdict.score, "format": 1.0} if self.format_gate else {"accuracy": verdict.score}
        return replace(verdict, parts=parts)


def _tolerance(value: Any, path: str, number: int) -> float | list[float] | None:
    """A row's tolerance: a number, several, or text that holds them, as OlympiadBench's column `error`."""
    if value is None or value == "":
        return None
    parts = value.split(",") if isinstance(value, str) else list(value) if isinstance(value, Sequence) else [value]
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or min(numbers) < 0:
        raise ValueError(f"data set {path!r}, row {number}: a tolerance must be a number >= 0 or a list, got {value!r}")
    return numbers[0] if len(numbers) == 1 else numbers


def _gold(answer: str) -> str:
    """The answer proper: GSM8K's own files have the worked solution before `#### `."""
    return answer.rpartition(GSM8K_MARKER)[2].strip()
