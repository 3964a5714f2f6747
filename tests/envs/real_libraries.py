"""Real environments of `verifiers` and `gem`, and episodes of ours in them, for test_real_adapters.py.

python tests/envs/real_libraries.py classic|tasks|gem     # where the library is installed; prints JSON
"""

from __future__ import annotations

import json
import pickle
import random
import sys
import time
from pathlib import Path
from typing import Any

SUMS = [("What is 17 + 25?", "42"), ("What is one half?", "\\frac{1}{2}"), ("What is 3 * 3?", "9")]


def rubric_environment(*, weight: float = 0.5, turns: int = 1) -> Any:
    """Classic verifiers: chat data set, boxed answers judged by its own math rubric, and a format reward beside it."""
    import verifiers as vf  # pyright: ignore[reportMissingImports]
    from datasets import Dataset

    def short(completion: Any, **_: Any) -> float:
        if completion[0]["content"] == "hang":
            time.sleep(3600)
        return float(len(completion[0]["content"]) < 40)

    rubric = vf.MathRubric(parser=vf.Parser(extract_fn=vf.extract_boxed_answer))
    rubric.add_reward_func(short, weight=weight)
    rows = Dataset.from_list([{"question": question, "answer": answer} for question, answer in SUMS])
    kind = vf.SingleTurnEnv if turns == 1 else _several_turns(vf)
    return kind(dataset=rows, system_prompt="Box your answer.", rubric=rubric)


def _several_turns(vf: Any) -> Any:
    class Several(vf.MultiTurnEnv):
        async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
            return []

    return Several


def taskset(*, runtime: bool = False) -> Any:
    """verifiers 0.4: tasks with two weighted rewards and a metric."""
    import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

    class SumData(vf.TaskData):
        answer: str = ""

    class SumTask(vf.Task[SumData]):
        @vf.reward(weight=2.0)
        async def correct(self, trace: Any) -> float:
            return vf.verify_boxed_math_answer(trace.last_reply, self.data.answer)

        @vf.reward(weight=0.5)
        async def short(self, trace: Any) -> float:
            if trace.last_reply == "hang":
                time.sleep(3600)
            return float(len(trace.last_reply) < 40)

        @vf.metric
        async def turns(self, trace: Any) -> float:
            return float(trace.num_turns)

    class InContainer(SumTask):
        @vf.reward
        async def passes(self, trace: Any, runtime: Any) -> float:
            return 1.0

    class Sums(vf.Taskset[SumTask, vf.TasksetConfig]):
        def load(self) -> Any:
            kind = InContainer if runtime else SumTask
            for question, answer in SUMS:
                yield kind(SumData(prompt=question, answer=answer, system_prompt="Box your answer."))

    return Sums(vf.TasksetConfig())


def scored(name: str, refused: dict[str, Any]) -> dict[str, Any]:
    """Rewards and outcomes of responses to each problem, and what an environment that cannot be adapted says."""
    from tgpo_ray.envs.adapters import VerifiersEnv

    env = VerifiersEnv(f"real_libraries:{name}", deadline_s=60.0)
    found: dict[str, Any] = {"problems": [env.reset(options={"index": i})[1]["messages"] for i in range(3)]}
    found["scores"] = []
    for index in range(3):
        for response in ("\\boxed{42}", "so " * 20 + "\\boxed{0.5}", "", "\ud800\0"):
            env.reset(options={"index": index})
            _, reward, _, _, info = pickle.loads(pickle.dumps(env)).step(response)
            found["scores"].append([reward, info["outcome"], info["reward_parts"]])
    env.deadline_s = 1.0
    env.reset(options={"index": 0})
    found["hang"] = env.step("hang")[4]["outcome"]
    try:
        VerifiersEnv(f"real_libraries:{name}", kwargs=refused)
    except ValueError as failure:
        found["refused"] = str(failure)
    return found


class Guesser:
    """Guesses a number of 1 to 10 by bisection, from gem's hints."""

    def __init__(self) -> None:
        self.low, self.high, self.guess = 1, 10, 0

    def next(self, observation: str) -> str:
        if "lower than" in observation:
            self.high = self.guess - 1
        elif "higher than" in observation:
            self.low = self.guess + 1
        self.guess = (self.low + self.high) // 2
        return f"\\boxed{{{self.guess}}}"


def turns_of(step: Any) -> list[Any]:
    """Observation, reward, terminated, truncated and info of every turn until the game is over."""
    guesser, turns = Guesser(), [("", 0.0, False, False, {})]
    while not (turns[-1][2] or turns[-1][3]):
        turns.append(step(guesser.next(turns[-1][0])))
    return turns[1:]


def guessed() -> dict[str, Any]:
    """gem's guessing game by bisection, through the adapter in two episodes at once, and directly."""
    import gem  # pyright: ignore[reportMissingImports]
    import gem.envs  # pyright: ignore[reportMissingImports]

    from tgpo_ray.envs.adapters import GemEnv

    env_id = "game:GuessTheNumber-v0-easy"
    ours, other = GemEnv(env_id), GemEnv(env_id, seed=1)
    found: dict[str, Any] = {"ours": [], "directly": []}

    def step_between_others(action: str) -> Any:
        other.reset(options={"index": 0})
        turn = pickle.loads(pickle.dumps(ours)).step(action)
        assert turn[:4] == ours.step(action)[:4]
        return turn

    for index in range(5):
        first, _ = ours.reset(options={"index": index})
        turns = turns_of(step_between_others)
        found["ours"].append([first, [turn[:4] for turn in turns], turns[-1][4]["outcome"]])
        random.seed(ours._episode_seed)
        env = gem.make(env_id)
        first, _ = env.reset(seed=ours._episode_seed)
        found["directly"].append([first, [turn[:4] for turn in turns_of(env.step)]])
    ours.reset(options={"index": 0})
    found["nonsense"] = ours.step("\ud800\0 \\boxed{" + "9" * 100_000 + "}")[4]["outcome"]
    return found


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]
    play = {
        "classic": lambda: scored("rubric_environment", {"turns": 2}),
        "tasks": lambda: scored("taskset", {"runtime": True}),
        "gem": guessed,
    }[sys.argv[1]]
    print()  # a progress bar may stand on this line
    print(json.dumps(play()))
