"""What run.json says of a run: its sessions, the checkpoints that are whole, and which of them stay."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tgpo_ray.cluster import absolute, delete, files_below, is_folder, join, names_in, read_text

RUN_FILE = "run.json"
CHECKPOINT = "checkpoint_"  # what the name of each checkpoint begins with


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that was whole when it was recorded. Its names are relative: a run's folder may be moved.

    Args:
        folders: the checkpoint, then what belongs to it: those of other learner groups.
        files: bytes of every file in them, by its name relative to the run's folder.
        values: the metric that decides which checkpoint is the best, if it was measured at this iteration.
    """

    iteration: int
    folders: list[str]
    files: dict[str, int]
    values: dict[str, float] = field(default_factory=dict)

    def problem(self, run: str) -> str:
        """Returns what is wrong with its files in the run's folder, or an empty text."""
        there = {f"{folder}/{name}": size for folder in self.folders for name, size in _files(run, folder)}
        for name, size in self.files.items():
            if name not in there:
                return f"{name} is missing"
            if there[name] != size:
                return f"{name} has {there[name]:,} bytes, it was written with {size:,}"
        return ""


def _files(run: str, folder: str) -> Iterable[tuple[str, int]]:
    return files_below(join(run, folder)).items()


def recorded(run: str, folders: Sequence[str], iteration: int, values: dict[str, float]) -> SavedCheckpoint:
    """Returns the record of a checkpoint that has just been written into these folders of the run's folder."""
    files = {f"{folder}/{name}": size for folder in folders for name, size in _files(run, folder)}
    return SavedCheckpoint(iteration, list(folders), files, values)


@dataclass(frozen=True)
class Best:
    """The metric whose best checkpoint stays, from `checkpointing.keep_best`: with a minus in front the lowest is."""

    name: str

    @property
    def metric(self) -> str:
        return self.name.removeprefix("-")

    def score(self, values: dict[str, float]) -> float | None:
        """Returns the metric so that more is better, or None where it was not measured."""
        value = values.get(self.metric)
        return -value if value is not None and self.name.startswith("-") else value

    def of(self, checkpoints: Sequence[SavedCheckpoint]) -> SavedCheckpoint | None:
        """Returns the best of the checkpoints, the earliest of equal ones, or None where none was measured."""
        scored = [(score, it) for it in checkpoints if (score := self.score(it.values)) is not None]
        return max(scored, key=lambda pair: (pair[0], -pair[1].iteration))[1] if scored else None


@dataclass(frozen=True)
class RunState:
    """The content of run.json.

    Args:
        session: the number of the start of the run that wrote the last checkpoint, counted from 1.
        saved: the checkpoints that are there, oldest first.
    """

    session: int
    saved: list[SavedCheckpoint]

    def last_in(self, run: str) -> str | None:
        """Returns the path of the newest checkpoint in the run's folder, None before the first."""
        return absolute(join(run, self.saved[-1].folders[0])) if self.saved else None

    def text(self) -> str:
        last = self.saved[-1]
        summary = {"checkpoint": last.folders[0], "iteration": last.iteration, "session": self.session}
        return json.dumps(summary | {"checkpoints": [asdict(it) for it in self.saved]}, indent=1)

    @staticmethod
    def read(run: str) -> RunState:
        """Returns the state in the folder of a run.

        Raises:
            FileNotFoundError: no checkpoint was finished there.
        """
        data: dict[str, Any] = json.loads(read_text(join(run, RUN_FILE)))
        return RunState(data["session"], [SavedCheckpoint(**it) for it in data["checkpoints"]])

    def with_checkpoint(self, new: SavedCheckpoint, session: int, *, keep: int, best: Best | None) -> RunState:
        """Returns the state with a new checkpoint, without those that it replaces."""
        # one of a later iteration was taken back: the learners have gone on from before it
        saved = [it for it in self.saved if it.iteration < new.iteration] + [new]
        staying = saved[-keep:]
        champion = best.of(saved) if best else None
        if champion is not None and champion not in staying:
            staying = [champion, *staying]
        return replace(self, session=session, saved=staying)


def next_session(run: str, state: RunState) -> int:
    """Returns the number of the next start: no session before it, however it ended, has left a folder of its name."""
    used = [name.rpartition("-")[2] for name in names_in(run) if name.rpartition("-")[2].isdigit()]
    return max([state.session, *map(int, used)]) + 1


def delete_others(run: str, state: RunState) -> list[str]:
    """Returns the checkpoints that it deletes in the run's folder: replaced ones, and halves that a crash has left."""
    staying = {folder for it in state.saved for folder in it.folders}
    deleted = []
    for group in names_in(run):
        if group == "tensorboard" or not is_folder(join(run, group)):
            continue
        for name in names_in(join(run, group)):
            if name.startswith(CHECKPOINT) and f"{group}/{name}" not in staying and is_folder(join(run, group, name)):
                delete(join(run, group, name))
                deleted.append(f"{group}/{name}")
    return deleted
