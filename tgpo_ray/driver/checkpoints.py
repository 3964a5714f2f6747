"""When a run is saved, which checkpoints stay, and what happens where one cannot be written."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from tgpo_ray.cluster import absolute, delete, free_bytes, root_cause
from tgpo_ray.config import format_bytes
from tgpo_ray.driver.run_folder import RunFolder
from tgpo_ray.driver.saved_checkpoints import Best, RunState, SavedCheckpoint, delete_others, recorded
from tgpo_ray.learners import CheckpointError

if TYPE_CHECKING:
    from tgpo_ray.config import CheckpointingConfig

EVALUATION = "evaluation/"


class Savable(Protocol):
    """What can be saved. `Algorithm` can."""

    iteration: int

    @property
    def num_iterations(self) -> int: ...

    def save(self) -> str: ...

    def checkpoint_folders(self) -> list[str]: ...


class Checkpoints:
    """The checkpoints of one run, of this session and of earlier ones.

    A checkpoint counts after its files are there and run.json names it; before, it is a half that nobody reads. So
    `write` and `record` are two steps: between them the row of the iteration is written, which goes with it.

    Args:
        state: what run.json says, without the checkpoints that turned out to be damaged.
        session: the number of this start of the run.
        say: takes a sentence about what went wrong.
    """

    def __init__(
        self,
        folder: RunFolder,
        state: RunState,
        session: int,
        section: CheckpointingConfig,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.state, self.session = folder, state, session
        self._section, self._say = section, say
        self._best = Best(section.keep_best) if section.keep_best else None
        self._pending: SavedCheckpoint | None = None
        self._error: Exception | None = None  # of the last try
        self._tried = time.monotonic()  # no clock that may be set
        self.num_failures = 0

    @property
    def last(self) -> str | None:
        """The path of the newest whole checkpoint, None before the first."""
        return self.state.last_in(self.folder.path)

    def is_due(self, algorithm: Savable, metrics: Mapping[str, float]) -> bool:
        """Returns whether the iteration that has just ended is saved."""
        section, iteration = self._section, algorithm.iteration
        if iteration == algorithm.num_iterations:
            return True
        if section.every is not None and iteration % section.every == 0:
            return True
        minutes = (time.monotonic() - self._tried) / 60
        if section.every_minutes is not None and minutes >= section.every_minutes:
            return True
        return self._is_best(metrics)

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        """Whether an evaluation is better than those of all checkpoints. Other metrics come with every iteration."""
        if self._best is None or not self._best.metric.startswith(EVALUATION):
            return False
        score, champion = self._best.score(dict(metrics)), self._best.of(self.state.saved)
        before = self._best.score(champion.values) if champion else None
        return score is not None and (before is None or score > before)

    def write(self, algorithm: Savable, metrics: Mapping[str, float]) -> dict[str, float]:
        """Returns the metrics of a checkpoint that it writes.

        Where that fails, its half is deleted, the failure is shown and counted, and the run goes on.
        """
        start = self._tried = time.monotonic()
        self._pending = self._error = None
        try:
            if not self.folder.claim.is_held():
                raise ClaimLostError(self.folder.path)
            self._refuse_a_full_disk()
            algorithm.save()
            run = absolute(self.folder.path)
            folders = [_relative(path, run) for path in algorithm.checkpoint_folders()]
            values = {self._best.metric: metrics[self._best.metric]} if self._measured(metrics) and self._best else {}
            self._pending = recorded(run, folders, algorithm.iteration, values)
        except CheckpointError as error:
            self._failed(algorithm, error)
            self._try_to_delete(error.path)
        except OSError as error:  # a disk that is full, a store that does not answer
            self._failed(algorithm, error)
        counts = {"checkpoint/failures": float(self.num_failures)} if self.num_failures else {}
        return {"time/checkpoint_s": time.monotonic() - start, **counts}

    def _refuse_a_full_disk(self) -> None:
        """Raise an error where the disk has less room than the last checkpoint took; of a URI nothing is known.

        A rank whose disk is full in the middle of DeepSpeed's writing would leave the others waiting for it.
        """
        free = free_bytes(self.folder.path)
        if self.state.saved and free is not None:
            needed = sum(self.state.saved[-1].files.values())
            if free < needed:
                raise OSError(
                    errno.ENOSPC, f"no space left: {format_bytes(free)} free, the last one took {format_bytes(needed)}"
                )

    def _measured(self, metrics: Mapping[str, float]) -> bool:
        return self._best is not None and self._best.metric in metrics

    def record(self) -> None:
        """Name the checkpoint that was written in run.json, and delete those that it replaces."""
        if self._pending is None:
            return
        new, self._pending = self._pending, None
        section = self._section
        state = self.state.with_checkpoint(new, self.session, keep=section.keep, best=self._best)
        try:
            self.folder.record(state)
            self.state = state
            delete_others(self.folder.path, state)
        except OSError as error:
            self._failed(None, error)

    def catch_up(self, algorithm: Savable) -> None:
        """Write and record a checkpoint of the last iteration, where there is none, for a run that is to end now."""
        if self._pending is None and (not self.state.saved or self.state.saved[-1].iteration < algorithm.iteration):
            self.write(algorithm, {})
        self.record()

    def refuse_lost_end(self) -> None:
        """Raise an error where the last iteration is in no checkpoint: what the run has learned would be lost."""
        if self._error is not None:
            where = f"the last whole one is {self.last}" if self.last else "there is none"
            raise RuntimeError(
                f"the last checkpoint could not be written: {_reason(self._error)}; {where}: make room and resume"
            ) from self._error

    def _failed(self, algorithm: Savable | None, error: Exception) -> None:
        self.num_failures += 1
        self._error = error
        iteration = f" of iteration {algorithm.iteration}" if algorithm else ""
        kept = f"{self.last} stays the last one" if self.last else "there is none yet"
        self._say(f"WARNING: the checkpoint{iteration} could not be written: {_reason(error)}; {kept}")

    def _try_to_delete(self, path: str) -> None:
        try:
            delete(path)
        except OSError as error:
            self._say(f"WARNING: half a checkpoint is left at {path}: {error}")


class ClaimLostError(RuntimeError):
    """Another process has taken the run's folder, because this one gave no sign of life."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} was claimed by another process while this one stood still: this run ends, and that one goes on"
        )


def without_damaged(state: RunState, restored: SavedCheckpoint, whole: list[SavedCheckpoint]) -> RunState:
    """Returns the state of a run that goes on from `restored`: later and damaged checkpoints are none of its own."""
    return replace(state, saved=[it for it in state.saved if it in whole and it.iteration <= restored.iteration])


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, CheckpointError) else root_cause(error)


def _relative(path: str, run: str) -> str:
    """The path of a checkpoint within the run's folder."""
    run, path = run.partition("?")[0].rstrip("/"), path.partition("?")[0]
    assert path.startswith(f"{run}/"), f"{path} is not in {run}"
    return path[len(run) + 1 :]
