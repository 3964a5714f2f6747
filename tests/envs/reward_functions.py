"""Reward functions and other libraries' environments in small, for test_adapters.py. No test file."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any


def plain(prompt: str, response: str, answer: str) -> float:
    return 0.5 if response == "half" else float(response == answer and prompt != "")


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> dict[str, float]:
    return {"score": float(solution_str == ground_truth and data_source == "sums"), "acc": 1.0}


def trl(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
    return [float(text == right) for text, right in zip(texts, answer, strict=True)]


def trl_narrow(completions: list[Any], level: list[int]) -> list[float]:
    return [float(level[0] == 3)] * len(completions)


def forever(prompt: str, response: str, answer: str) -> float:
    while True:
        time.sleep(1)


def misfit(one: str) -> float:
    return 1.0


class Rubric:
    """As in verifiers: fills the state."""

    async def score_rollout(self, state: dict[str, Any]) -> None:
        text = state["completion"] if isinstance(state["completion"], str) else state["completion"][0]["content"]
        if text == "break":
            raise RuntimeError("no rubric today")
        while text == "hang":
            time.sleep(1)
        state["metrics"] = {"exact": float(text == state["answer"])}
        state["reward"] = state["metrics"]["exact"]


class OldRubric:
    """As in earlier versions: returns a score."""

    async def score_rollout(
        self, prompt: Any, completion: Any, answer: Any, state: Any, task: Any = "", info: Any = None
    ) -> Any:
        score = float(completion[0]["content"] == answer)
        return SimpleNamespace(reward=score, metrics={"exact": score})


def verifiers_environment(*, old: bool = False, turns: int = 1) -> Any:
    rows = [{"prompt": [{"role": "user", "content": f"{i}+1?"}], "answer": str(i + 1)} for i in range(3)]
    return SimpleNamespace(dataset=rows, rubric=OldRubric() if old else Rubric(), max_turns=turns)


class Countdown:
    """As in gem: the seed of reset chooses, every step takes one off, `stop` at zero wins."""

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        self.left = (seed or 0) % 3 + 1
        return f"count from {self.left}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        if action == "break":
            raise RuntimeError("no game today")
        while action == "hang":
            time.sleep(1)
        if action == "stop":
            return "over", float(self.left == 0), True, False, {}
        return f"{self.left} left", 0.0, False, self.left < -2, {}


class Dice(Countdown):
    """Its turns do not follow from its seed."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return f"you have thrown {time.monotonic_ns()}", 0.0, False, False, {}
