"""The order of problems, a seeded walk through the environments that a restored run continues exactly."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tgpo_ray.episode import Task

MAX_SEED = 2**31 - 1


@dataclass
class Cursor:
    """A source of tasks that draws the environment by weight, and each of its problems once an epoch.

    The index of a procedural environment (`num_problems` None) counts 0, 1, 2, ... The state is the seed and counters.

    Args:
        num_problems: number of problems of each environment, None where unlimited.
        weights: frequency of each environment, relative to the others.
        seed: seed of the permutations, of the choice of environments and of each task's own seed.
        left_out: the problems of each environment that are not walked, because their prompts are too long.
    """

    num_problems: Sequence[int | None]
    weights: Sequence[float]
    seed: int
    drawn: list[int] = field(default_factory=list)  # tasks handed out so far, for each environment
    left_out: Sequence[Collection[int]] = ()
    _permutations: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.drawn = self.drawn or [0] * len(self.num_problems)
        if any(n == 0 for n in self.num_problems):
            raise ValueError(f"environment {list(self.num_problems).index(0)} has no problems: its data set is empty")
        self.left_out = self.left_out or [()] * len(self.num_problems)
        self._walked = [
            None if count is None else np.setdiff1d(np.arange(count), np.fromiter(out, np.int64))
            for count, out in zip(self.num_problems, self.left_out, strict=True)
        ]

    def next(self, num_tasks: int) -> list[Task]:
        """Returns the next tasks, with ordinals from 0."""
        return [self._draw(ordinal) for ordinal in range(num_tasks)]

    def _draw(self, ordinal: int) -> Task:
        total = sum(self.drawn)
        rng = np.random.default_rng([self.seed, 1, total])  # depends only on the state: a restored run draws the same
        share = np.asarray(self.weights, float) / sum(self.weights)  # (E,)
        env_index = int(rng.choice(len(share), p=share))
        count = self.drawn[env_index]
        self.drawn[env_index] += 1
        return Task(
            env_index=env_index,
            problem_index=self._problem(env_index, count),
            seed=int(rng.integers(MAX_SEED)),
            ordinal=ordinal,
        )

    def _problem(self, env_index: int, count: int) -> int:
        walked = self._walked[env_index]
        if walked is None:
            return count
        epoch, position = divmod(count, len(walked))
        key = (env_index, epoch)
        if key not in self._permutations:
            # only the permutation of each environment's current epoch stays in memory
            self._permutations = {k: v for k, v in self._permutations.items() if k[0] != env_index}
            self._permutations[key] = np.random.default_rng([self.seed, 2, env_index, epoch]).permutation(walked)
        return int(self._permutations[key][position])

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {
            "seed": self.seed,
            "drawn": list(self.drawn),
            "num_problems": list(self.num_problems),
            "left_out": [len(out) for out in self.left_out],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the walk of a checkpoint.

        Raises:
            ValueError: the environments have other numbers of problems, or others of them are left out.
        """
        if list(state["num_problems"]) != list(self.num_problems):
            raise ValueError(
                f"the checkpoint walked environments of {state['num_problems']} problems, these have "
                f"{list(self.num_problems)}: restore with the same `envs`, or start a new run"
            )
        left_out = [len(out) for out in self.left_out]
        if state.get("left_out", [0] * len(left_out)) != left_out:  # a checkpoint of an earlier version has no entry
            raise ValueError(
                f"the checkpoint left {state.get('left_out', 0)} problems out, whose prompts were too long, and this "
                f"run leaves out {left_out}: restore with the same env_runners.max_prompt_tokens and tokenizer"
            )
        self.seed, self.drawn = state["seed"], list(state["drawn"])
        self._permutations = {}  # they belong to the previous seed


def evaluation_tasks(
    env_index: int, num_problems: int | None, limit: int | None, seed: int, left_out: Collection[int] = ()
) -> list[Task]:
    """Returns the tasks of problems 0, 1, ... of one held-out environment but those left out, all with the same seed.

    Raises:
        ValueError: a procedural environment has no limit.
    """
    if num_problems is None and limit is None:
        raise ValueError(
            "evaluation.max_problems must be given for a procedural environment: it has no last problem to stop at"
        )
    count = min(n for n in (num_problems, limit) if n is not None)
    return [Task(env_index, index, seed, ordinal=index) for index in range(count) if index not in left_out]
