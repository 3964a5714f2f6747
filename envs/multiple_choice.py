"""`tgpo/MultipleChoice-v0`: problems with lettered options, as in ARC, GPQA and MMLU-Pro."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from .base import Problem, SingleTurnEnv
from .choices import LETTERS, ChoiceRow, choice_row, chosen, same_text, stated_answer
from .prompts import THINK_CLOSE, PromptTemplate, after_thought, empty_thought
from .rows import Row, checked_columns, read_rows, require_columns
from .verdict import CORRECT, UNPARSABLE, WRONG, Verdict

INSTRUCTION = "Answer with the letter of the right option."
COLUMNS = ("problem", "choices", "answer")


class MultipleChoiceEnv(SingleTurnEnv):
    r"""Problems with 2 to 10 options each, lettered from A, of a file or a Hugging Face data set.

    A response answers with the last `\boxed{}`, else with its last `Answer: ...`: a letter, or an option's text.

    Args:
        path, subset, split: the file or data set, as in `tgpo/Math-v0`.
        prompt: `plain`, `think`, `chat`, or a text with `{problem}` in it; the options are part of the problem.
        system_prompt: replaces the style's own; "" drops it.
        columns: names of the file's columns, `{"problem": "question", "choices": "options"}`. A list under `choices`
            names columns with a wrong option each, as in GPQA; the answer's text is then the right one.
        shuffle: another order of the options for each problem, so that no letter is the likelier one. Problems in
            which an option names others by letter (`Both A and B`) keep the file's.
        seed: which order each problem gets. It depends on `seed` and index alone.
        format_gate: as in `tgpo/Math-v0`.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, empty, lacks a column, or has a row whose answer is
            none of its options.
    """

    def __init__(
        self,
        path: str,
        *,
        prompt: str = "plain",
        system_prompt: str | None = None,
        columns: Mapping[str, str | Sequence[str]] | None = None,
        subset: str | None = None,
        split: str | None = None,
        shuffle: bool = True,
        seed: int = 0,
        format_gate: bool | None = None,
    ) -> None:
        super().__init__()
        self.template = PromptTemplate(prompt, system_prompt)
        self.format_gate = self.template.opens_thought if format_gate is None else format_gate
        self.shuffle, self.seed = shuffle, seed
        self._rows = _read(path, read_rows(path, subset=subset, split=split), columns or {})
        self.num_problems = len(self._rows)

    def row(self, index: int) -> ChoiceRow:
        """Problem `index` with its options in the order in which they are shown."""
        row = self._rows[index]
        order = list(range(len(row.choices)))
        if self.shuffle and row.may_be_shuffled:
            random.Random(f"{self.seed}/{index}").shuffle(order)
        return ChoiceRow(row.problem, tuple(row.choices[i] for i in order), order.index(row.answer))

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """The problem, a blank line, `A. ...` and so on; the answer is the letter."""
        row = self.row(index)
        options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row.choices, strict=False))
        text = f"{row.problem}\n\n{options}\n\n{INSTRUCTION}"
        extra = {"choices": row.choices}
        return Problem(self.template.text(text), LETTERS[row.answer], self.template.messages(text), extra)

    def gold_response(self, index: int) -> str:
        r"""The letter in `\boxed{}`, after a closed thought where the format gate wants one."""
        thought = empty_thought(opened=self.template.opens_thought) if self.format_gate else ""
        return f"{thought}The answer is \\boxed{{{LETTERS[self.row(index).answer]}}}."

    def verify(self, problem: Problem, response: str) -> Verdict:
        """Compares options: the letter of another option with the right one's text counts too."""
        text = after_thought(response, opened=self.template.opens_thought) if self.format_gate else response
        if text is None:
            parts = {"accuracy": 0.0, "format": 0.0}
            return Verdict(0.0, UNPARSABLE, detail=f"no closed <think> ... {THINK_CLOSE} section", parts=parts)
        choices, form = problem.extra["choices"], {"format": 1.0} if self.format_gate else {}
        answer = stated_answer(text)
        if answer is None:
            detail = "neither \\boxed{} nor 'Answer:' in the response"
            return Verdict(0.0, UNPARSABLE, detail=detail, parts={"accuracy": 0.0, **form})
        index = chosen(answer, choices)
        if index is None:
            detail, parts = "the answer is none of the options", {"accuracy": 0.0, **form}
            return Verdict(0.0, WRONG, extracted=answer[:200], detail=detail, parts=parts)
        correct = same_text(choices[index]) == same_text(choices[LETTERS.index(problem.answer)])
        outcome, parts = CORRECT if correct else WRONG, {"accuracy": float(correct), **form}
        return Verdict(float(correct), outcome, extracted=LETTERS[index], parts=parts)


def _read(path: str, rows: list[Row], columns: Mapping[str, str | Sequence[str]]) -> list[ChoiceRow]:
    wrong = columns.get("choices")
    named = {meaning: name for meaning, name in columns.items() if isinstance(name, str)}
    if wrong is None or isinstance(wrong, str):
        names: dict[str, str | Sequence[str]] = dict(checked_columns(named, COLUMNS))
        needed = {meaning: str(name) for meaning, name in names.items()}
    else:
        names = {**checked_columns(named, ("problem", "answer")), "choices": list(wrong)}
        needed = {"problem": str(names["problem"]), "answer": str(names["answer"]), **{name: name for name in wrong}}
    require_columns(rows, needed, path)
    found: list[ChoiceRow] = []
    for number, row in enumerate(rows):
        try:
            found.append(choice_row(row, names))
        except (ValueError, TypeError, KeyError) as failure:
            raise ValueError(f"data set {path!r}, row {number}: {failure}") from failure
    return found
