"""An algorithm without actors for tests of the run around it: its weights are one number."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tgpo_ray.cluster import join, names_in, read_text, write_text
from tgpo_ray.driver.checkpoint_state import STATE_FILE, read_state, state_text
from tgpo_ray.driver.run import Run
from tgpo_ray.driver.signals import Notice
from tgpo_ray.learners import LearnerError

WEIGHTS = "learner.pt"


class Counting:
    """Each iteration multiplies the number. Its rewards and evaluations follow from it alone.

    Args:
        hooks: by name of a method, what is called with the algorithm before it: to look, or to raise.
    """

    def __init__(self, config: Any, run: Run, hooks: dict[str, Callable[[Any], None]]) -> None:
        self.config, self._run, self._hooks = config.resolved(gpus=False), run, hooks
        self.iteration, self.number, self.num_recoveries = 0, 7, 0
        self.sampled: list[Any] = []
        self._last = ""
        self.between_updates = True

    @property
    def num_iterations(self) -> int:
        return self.config.num_iterations

    def train(self) -> dict[str, float]:
        self._call("train")
        self.iteration += 1
        self.number = self.number * 31 % 1009
        return {"reward": self.number / 1009, "tokens/response": 10.0}

    def evaluate(self) -> tuple[dict[str, float], list[Any]]:
        self._call("evaluate")
        return {"evaluation/reward": self.number / 1009}, []

    def save(self) -> str:
        group = "checkpoints" if self._run.session == 1 else f"checkpoints-{self._run.session}"
        self._last = join(self._run.folder.path, group, f"checkpoint_{self.iteration:06d}")
        write_text(join(self._last, WEIGHTS), str(self.number))
        self._call("save")  # a hook that raises leaves half a checkpoint
        state = {"algorithm": self.config.algorithm, "iteration": self.iteration}
        write_text(join(self._last, STATE_FILE), state_text(self.config, state))
        return self._last

    def checkpoint_folders(self) -> list[str]:
        return [self._last]

    def restore(self, path: str) -> None:
        state = read_state(path, self.config.algorithm)
        try:
            self.number = int(read_text(join(path, WEIGHTS)))
        except ValueError as error:
            raise LearnerError(f"learner rank 0, load: {error}") from None
        self.iteration, self._last = state["iteration"], path

    def recover(self, error: Exception) -> None:
        raise error

    def stop(self) -> None:
        pass

    def _call(self, name: str) -> None:
        if name in self._hooks:
            self._hooks[name](self)


def run(config: Any, resume: str | None = None, notice: Notice | None = None, **hooks: Callable[[Any], None]) -> Any:
    """The Result of a run of `Counting`."""
    here = Run(config, resume)
    try:
        return here.go(Counting(config, here, hooks), notice or Notice())  # pyright: ignore[reportArgumentType]
    finally:
        here.close()


def at(iteration: int, action: Callable[[Any], None]) -> Callable[[Any], None]:
    """A hook that acts at one iteration only."""
    return lambda algorithm: action(algorithm) if algorithm.iteration == iteration else None


def raising(error: Exception) -> Callable[[Any], None]:
    def raise_it(algorithm: Any) -> None:
        raise error

    return raise_it


def rows_in(folder: str, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_text(join(folder, name)).splitlines()]


def run_file(folder: str) -> dict[str, Any]:
    return json.loads(read_text(join(folder, "run.json")))


def rewards(folder: str) -> list[tuple[int, float]]:
    return [(row["iteration"], row["reward"]) for row in rows_in(folder)]


def saved(folder: str) -> list[str]:
    """The checkpoints on the disk."""
    groups = [name for name in names_in(folder) if name.startswith("checkpoints")]
    return [f"{group}/{name}" for group in groups for name in names_in(join(folder, group))]
