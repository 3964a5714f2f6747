"""`tgpo/MathTool-v0`: mathematics problems with a calculator that the policy may call."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .base import Problem
from .boxed import last_boxed
from .calculator import calculate
from .math_env import MathEnv, MathOptions
from .multi_turn import MultiTurnEnv
from .options import takes
from .verdict import UNPARSABLE, Verdict

TOOL_INSTRUCTION = (
    "You may use a calculator: write <tool>expression</tool>, for example <tool>(3/4 + 2)**3</tool>, and end your "
    "turn. The result follows, and you go on."
)
TURN_ROLES = ("user", "tool", "system")
MAX_CALLS = 8  # in one response; further ones are not looked at
RESULT = "Result: "
# A call ends at the next `<`, so that a response full of opening tags takes linear time.
_CALL = re.compile(r"<tool>([^<]{0,2000})</tool>")


@dataclass(frozen=True, kw_only=True)
class MathToolOptions(MathOptions):
    """Options of `tgpo/MathTool-v0`: those of `tgpo/Math-v0`, and those of the conversation."""

    max_turns: int = 8
    """Responses of an episode. Where the last of them still calls the calculator, the score is 0.0, `unparsable`."""
    turn_role: str | None = "user"
    """With `prompt: chat`, the role of the messages with results: `user`, `tool` or `system`, as the model's chat
    template knows them. null: results are text within the policy's own turn, which `</tool>` must then interrupt."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.turn_role not in (*TURN_ROLES, None):
            raise ValueError(f"turn_role must be one of {', '.join(TURN_ROLES)} or None, got {self.turn_role!r}")


class MathToolEnv(MultiTurnEnv):
    r"""`tgpo/Math-v0` in turns: a response that calls the calculator gets `Result: 42`, any other is the answer.

    A complete `\boxed{}` after the last call of a response makes it the answer too. With the format gate, the gate
    reads what the policy wrote in all turns. Without it, only the last response is scored. Give `env_runners.stop`
    the text `</tool>` where the policy does not end its turn by itself. `MathToolOptions` lists the arguments.

    Raises:
        FileNotFoundError, ValueError: for a file or data set that is missing, empty, or lacks a column.
        ImportError: without math-verify, or for a data set without `datasets`.
    """

    @takes(MathToolOptions)
    def __init__(self, options: MathToolOptions) -> None:
        super().__init__(options.max_turns)
        self.options, self.deadline_s, self.turn_role = options, options.deadline_s, options.turn_role
        self._math = MathEnv(**options.arguments(MathOptions))
        self.num_problems = self._math.num_problems
        self._written: list[str] = []  # by the policy, in this episode

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """Row `index` of the file, with the calculator explained after the problem."""
        self._written = []
        return self._math.problem_with(index, f"\n\n{TOOL_INSTRUCTION}")

    def gold_response(self, index: int) -> tuple[str, ...]:
        """The gold answer, computed before it is given where it is arithmetic and there are turns for both."""
        answer, last = self._math.row(index)[1], self._math.gold_response(index)
        called = self.max_turns > 1 and _result(answer).startswith(RESULT)
        return (f"<tool>{answer}</tool>", last) if called else (last,)

    def respond(self, problem: Problem, response: str) -> str | Verdict:
        r"""A line for each call, `Result: ...` or `Error: ...`; else the verdict on the answer."""
        self._written.append(response)
        calls = list(_CALL.finditer(response))
        # A box before the last call may hold an intermediate result.
        if not calls or last_boxed(response[calls[-1].end() :]) is not None:
            return self._math.verify(problem, self._read_by_gate(response))
        return "\n" + "".join(f"{_result(call[1])}\n" for call in calls[:MAX_CALLS])

    def _read_by_gate(self, response: str) -> str:
        """The last response, or all of them where a thought is still open or closed in an earlier one.

        Calls are left out: what was given to the calculator is no answer.
        """
        written, gate = "".join(self._written), self._math.gate
        alone = gate.scored_text(written) is not None and gate.scored_text(response) is not None
        return _CALL.sub(" ", response if alone else written)

    def _see_prompt(self, prompt: str | None) -> None:
        self._math.gate = self._math.gate.after(prompt)

    def give_up(self, problem: Problem, response: str) -> Verdict:
        """Unparsable: the calculator was called where an answer was due."""
        parts = self._math.gate.parts(0.0, passed=False)
        return Verdict(0.0, UNPARSABLE, detail=f"no answer in {self.max_turns} responses", parts=parts)


def _result(expression: str) -> str:
    try:
        return f"{RESULT}{calculate(expression)}"
    except ValueError as failure:
        return f"Error: {failure}"
