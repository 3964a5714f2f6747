"""`tgpo/RewardFunction-v0`: a function of prompt, response and answer as an environment."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial

import numpy as np

from .base import Problem, SingleTurnEnv
from .cells import naming, prompt_cell
from .conversations import Prompt
from .hints import check_choice
from .options import takes
from .prompts import PromptTemplate
from .row_options import RowOptions
from .row_store import Row, part_of
from .verdict import Verdict
from .verifiers import VerifierOptions
from .verifiers.reward_call import STYLES, signature_style
from .verifiers.worker import load

CALL = "tgpo_ray.envs.verifiers.reward_call:score"


@dataclass(frozen=True)
class RewardFunctionOptions(VerifierOptions, RowOptions):
    """Options of `tgpo/RewardFunction-v0`. The columns are `problem` (a text or a list of messages) and `answer`.

    All columns of a row reach a `trl` function, `data_source` and `extra_info` a `verl` one.
    """

    reward: str
    """The function: `module:function` or `/path/file.py:function`."""
    _: KW_ONLY
    style: str | None = None
    """How the function is called: `plain`, `verl` or `trl`. null: the names of its arguments decide."""
    prompt: str = "{problem}"
    """`plain`, `think`, `chat`, or a text with `{problem}` in it. The default leaves the file's prompts as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.style is not None:
            check_choice("style", self.style, STYLES)
        if ":" not in self.reward:
            raise ValueError(
                f"reward must look like 'module:function' or '/path/file.py:function', got {self.reward!r}"
            )


class RewardFunctionEnv(SingleTurnEnv):
    """Problems of a file or data set, scored by your own reward function in a process that can be killed.

    The names of the function's arguments decide how it is called:

        plain   reward(prompt, response, answer) -> float
        verl    compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float or {"score": ...}
        trl     reward(prompts, completions, **columns) -> list[float], called with lists of one

    `RewardFunctionOptions` lists the arguments.

    Raises:
        FileNotFoundError, ValueError: for the file, the style, or arguments that fit none.
        ImportError, AttributeError: for a function that cannot be imported.
    """

    @takes(RewardFunctionOptions)
    def __init__(self, options: RewardFunctionOptions) -> None:
        super().__init__()
        self.options, self.deadline_s = options, options.deadline_s
        # Imported here only to see its arguments. It is called in a worker.
        self.style = options.style or signature_style(inspect.signature(load(options.reward)))
        self.template = PromptTemplate(options.prompt)
        self._rows = options.read()
        self._columns = options.column_names(self._rows, required=("problem", "answer"))
        self._prompts = options.parsed(self._rows, (_prompt, self._columns["problem"]), partial(_prompt, self._columns))
        self.num_problems = len(self._rows)

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """Row `index`. Messages of the file go through the model's chat template."""
        row, prompt = self._rows[index], self._prompts[index]
        answer = part_of(row, self._columns["answer"])
        extra = {"row": row, "answer": answer}  # the answer as the file has it, which may be no text
        return self.template.problem_of(prompt, str(answer), **extra)

    def verify(self, problem: Problem, response: str) -> Verdict:
        """The function's return value as a verdict."""
        call = {
            "style": self.style,
            "prompt": problem.prompt,
            "messages": problem.messages,
            "response": response,
            "answer": problem.extra["answer"],
        }
        return self.options.verify(CALL, self.options.reward, call, problem.extra["row"])


def _prompt(columns: Mapping[str, str], row: Row) -> Prompt:
    with naming(columns):
        return prompt_cell({"problem": part_of(row, columns["problem"])}, "problem")
