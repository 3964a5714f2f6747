"""`tgpo/MultipleChoice-v0`: problems with lettered options, as in ARC, GPQA and MMLU-Pro."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .base import Problem, SingleTurnEnv
from .choice_rows import ChoiceRow, choice_row
from .choices import LETTERS, choose, same_text
from .options import takes
from .prompt_options import PromptOptions
from .row_options import SourceOptions
from .rows import checked_columns, require_columns
from .verdict import CORRECT, UNPARSABLE, WRONG, Verdict

INSTRUCTION = "Answer with the letter of the right option."
COLUMNS = ("problem", "choices", "answer")


@dataclass(frozen=True, kw_only=True)
class MultipleChoiceOptions(PromptOptions, SourceOptions):
    """Options of `tgpo/MultipleChoice-v0`. The choices are part of the problem's text in the prompt."""

    columns: Mapping[str, str | Sequence[str]] | None = None
    """The file's names of the columns, by meaning: `{problem: question, choices: options}`. A list under `choices`
    names columns with one wrong choice each, as in GPQA. The right choice is then the text of the answer."""
    answer_index: int | None = None
    """The answers are whole numbers that count the choices from 0 or from 1. null: letters, labels or texts."""
    shuffle: bool = True
    """Each problem shows its choices in another order, so that no letter is more likely. Problems in which a choice
    names others by letter (`Both A and B`) keep the file's order."""
    seed: int = 0
    """Which order each problem gets. It depends on `seed` and index only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.answer_index not in (None, 0, 1):
            raise ValueError(f"answer_index must be 0, 1 or null, got {self.answer_index!r}: choices count from 0 or 1")

    def read_choices(self) -> Sequence[ChoiceRow]:
        """The rows with their choices in file order.

        Raises:
            FileNotFoundError, ValueError: for a file that is missing, empty, lacks a column, or has a row whose answer
                is none of its choices.
        """
        columns = checked_columns(self.columns, COLUMNS)
        choices = columns["choices"]
        required = {meaning: str(column) for meaning, column in columns.items()}
        if not isinstance(choices, str):  # GPQA's shape: each of the wrong choices is a column of its own
            del required["choices"]
            required |= {name: name for name in choices}
        rows = self.read(required.values())
        key = (isinstance(choices, str), *required.items())
        rows.derived(("required", *key), lambda: require_columns(rows, required, self.path))
        return self.parsed(
            rows, (choice_row, self.answer_index, *key), lambda row: choice_row(row, columns, self.answer_index)
        )


class MultipleChoiceEnv(SingleTurnEnv):
    r"""Problems with 2 to 10 options each, lettered from A, of a file or a Hugging Face data set.

    A response answers with its last `\boxed{}` or `Answer: ...` that names an option: a letter, or an option's text.
    `MultipleChoiceOptions` lists the arguments.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, empty, lacks a column, or has a row whose answer is
            none of its options.
    """

    @takes(MultipleChoiceOptions)
    def __init__(self, options: MultipleChoiceOptions) -> None:
        super().__init__()
        self.options = options
        self.template, self.gate = options.template, options.gate
        self._rows = options.read_choices()
        self.num_problems = len(self._rows)

    def row(self, index: int) -> ChoiceRow:
        """Problem `index` with its options in the order in which they are shown."""
        row = self._rows[index]
        # The order depends on `seed` and index, not on the episode: all members of a group see the same letters.
        order = list(range(len(row.choices)))
        if self.options.shuffle and row.may_be_shuffled:
            random.Random(f"{self.options.seed}/{index}").shuffle(order)
        return ChoiceRow(row.problem, tuple(row.choices[i] for i in order), order.index(row.answer))

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """The problem, a blank line, `A. ...` and so on; the answer is the letter."""
        row = self.row(index)
        options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row.choices, strict=False))
        text = f"{row.problem}\n\n{options}\n\n{INSTRUCTION}"
        return self.template.problem(text, LETTERS[row.answer], choices=row.choices)

    def gold_response(self, index: int) -> str:
        r"""The letter in `\boxed{}`, after a closed thought where the format gate wants one."""
        return f"{self.gate.empty_thought}The answer is \\boxed{{{LETTERS[self.row(index).answer]}}}."

    def verify(self, problem: Problem, response: str) -> Verdict:
        """Compares the options' texts, so the letter of another option with the right text counts too."""
        text = self.gate.scored_text(response)
        if text is None:
            return self.gate.refusal()
        choices = problem.extra["choices"]
        index, answer = choose(text, choices)
        if answer is None:
            detail = "neither \\boxed{} nor 'Answer:' in the response"
            return Verdict(0.0, UNPARSABLE, detail=detail, parts=self.gate.parts(0.0))
        if index is None:
            detail = "the answer is none of the options"
            return Verdict(0.0, WRONG, extracted=answer[:200], detail=detail, parts=self.gate.parts(0.0))
        # Two options may have the same text. Either letter is then right.
        score = float(same_text(choices[index]) == same_text(choices[LETTERS.index(problem.answer)]))
        outcome = CORRECT if score else WRONG
        return Verdict(score, outcome, extracted=LETTERS[index], parts=self.gate.parts(score))
