"""`tgpo/RewardFunction-v0`: any function of prompt, response and answer as an environment."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import numpy as np

from .base import Problem, SingleTurnEnv
from .problem_rows import problem_of
from .prompts import PromptTemplate
from .rows import checked_columns, read_rows, require_columns
from .verdict import Verdict
from .verifiers import DEFAULT_DEADLINE_S, shared_pool
from .verifiers.reward_call import STYLES, signature_style
from .verifiers.worker import load

CALL = "tgpo_ray.envs.verifiers.reward_call:score"


class RewardFunctionEnv(SingleTurnEnv):
    """Problems of a file or data set, scored by a reward function of one's own in a process that can be killed.

    The function is read by the names of its arguments:

        plain   reward(prompt, response, answer) -> float
        verl    compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float or {"score": ...}
        trl     reward(prompts, completions, **columns) -> list[float], called with lists of one

    Args:
        path, subset, split: the file or data set, as in `tgpo/Math-v0`. A prompt is a text or a list of messages.
        reward: `module:function` or `/path/file.py:function`.
        style: `plain`, `verl` or `trl`; None: by the argument names.
        prompt: as in `tgpo/Math-v0`; `{problem}`, the default, leaves the file's prompts as they are.
        columns: names of the file's columns for `problem` and `answer`. All columns of a row reach a `trl` function,
            `data_source` and `extra_info` a `verl` one.
        deadline_s: seconds that one call may take.
        verify_workers: processes of the shared verifier pool.

    Raises:
        FileNotFoundError, ValueError: for the file, the style, or arguments that fit none.
        ImportError, AttributeError: for a function that cannot be imported.
    """

    def __init__(
        self,
        path: str,
        reward: str,
        *,
        style: str | None = None,
        prompt: str = "{problem}",
        columns: Mapping[str, str] | None = None,
        subset: str | None = None,
        split: str | None = None,
        deadline_s: float = DEFAULT_DEADLINE_S,
        verify_workers: int = 1,
    ) -> None:
        super().__init__()
        if style is not None and style not in STYLES:
            raise ValueError(f"style must be one of {', '.join(STYLES)}, got {style!r}")
        if ":" not in reward:
            raise ValueError(f"reward must look like 'module:function' or '/path/file.py:function', got {reward!r}")
        self.style = style or signature_style(inspect.signature(load(reward)))
        self.reward, self.template = reward, PromptTemplate(prompt)
        self.deadline_s, self.verify_workers = deadline_s, verify_workers
        self._names = checked_columns(columns, ("problem", "answer"))
        self._rows = read_rows(path, subset=subset, split=split)
        require_columns(self._rows, self._names, path)
        self.num_problems = len(self._rows)

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """Row `index`; messages of the file go through the model's chat template."""
        row = self._rows[index]
        prompt, answer = row[self._names["problem"]], row[self._names["answer"]]
        if isinstance(prompt, str):
            return Problem(self.template.text(prompt), str(answer), self.template.messages(prompt), {"row": row})
        return problem_of(prompt, answer, row=row)

    def verify(self, problem: Problem, response: str) -> Verdict:
        """What the function returns, as `Verdict.from_value` reads it."""
        row = problem.extra["row"]
        call = {"style": self.style, "prompt": problem.prompt, "messages": problem.messages, "response": response}
        call["answer"] = row[self._names["answer"]]
        pool = shared_pool(self.verify_workers)
        return pool.verify(CALL, self.reward, call, row, deadline_s=self.deadline_s)
