"""A file that takes hours, while it is written: the same command goes on where it was stopped or killed."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.episode import Task

# sections that change how fast a file is written, not what stands in it
OF_NO_MATTER = {"ray", "checkpointing", "reporting", "learners", "evaluation", "fault_tolerance", "name"}
# keys of actors that change where and how many at a time
OF_NO_MATTER_TO_ACTORS = {
    *("num_env_runners", "num_cpus_per_env_runner", "num_gpus_per_env_runner", "num_verifier_workers", "sleep"),
    *("num_replicas", "num_cpus_per_replica", "num_gpus_per_replica", "token_budget", "cache_memory"),
    *("tensor_parallel_size", "kv_cache_memory", "max_num_seqs"),
}


class Unfinished:
    """`FILE.partial` holds what is written of FILE, `FILE.done` the tasks whose part stands in it.

    A part counts when its line is in `FILE.done`. What a killed process wrote beyond that is cut off.

    Args:
        target: FILE. It gets its name when everything is written.
        command: what the content follows from, by name.
        head: first bytes of FILE.
        rows: what a row is called in the lines that say how far it is.

    Attributes:
        done: ordinals of the tasks that are written.
        num_rows: rows that are written.

    Raises:
        ValueError: `FILE.partial` is from another command.
    """

    def __init__(self, target: Path, command: Mapping[str, Any], head: bytes = b"", *, rows: str = "rows") -> None:
        self._rows, self._count = rows, 0  # of the tasks, once `left` has seen them
        self._target, self._open = target, ExitStack()
        self._partial, self._log = (target.with_name(f"{target.name}.{end}") for end in ("partial", "done"))
        self.done: set[int] = set()
        self.num_rows = 0
        target.parent.mkdir(parents=True, exist_ok=True)
        command = json.loads(json.dumps(command, default=str))
        size = self._restored(command) if self._log.exists() and self._partial.exists() else None
        if size is None:
            self._partial.write_bytes(head)
            self._log.write_text(json.dumps(command) + "\n")
        self._size = len(head) if size is None else size

    def _restored(self, command: Mapping[str, Any]) -> int | None:
        """Returns the bytes of `FILE.partial` that count; None: no part does."""
        first, *lines = self._log.read_bytes().splitlines(keepends=True) or [b""]
        if not first.endswith(b"\n"):
            return None
        if (begun := json.loads(first)) != command:
            differ = sorted(key for key in {*begun, *command} if begun.get(key) != command.get(key))
            raise ValueError(
                f"--to: {self._partial} was begun with other {', '.join(differ)}: give what it was begun with to go "
                f"on, remove it and {self._log.name} to begin anew, or name another file"
            )
        length, counted = self._partial.stat().st_size, len(first)
        end: int | None = None
        for line in lines:
            ordinal, size, rows = json.loads(line) if line.endswith(b"\n") else (0, length + 1, 0)
            if size > length:  # what follows never reached the disk
                break
            self.done.add(ordinal)
            self.num_rows, end, counted = self.num_rows + rows, size, counted + len(line)
        os.truncate(self._log, counted)
        return end

    def left(self, tasks: Sequence[Task]) -> list[Task]:
        """Returns the tasks that are not written yet, and says how many are."""
        self._count = len(tasks)
        if self.done:
            print(f"{self._partial}: goes on after {len(self.done)} of {len(tasks)} problems", flush=True)
        return [task for task in tasks if task.ordinal not in self.done]

    def write(self, ordinal: int, part: bytes, num_rows: int) -> None:
        """Append a task's part, which may be empty, and print at each twentieth how far it is."""
        self._file.write(part)
        self._file.flush()
        self._size += len(part)
        self._lines.write(f"{json.dumps([ordinal, self._size, num_rows])}\n")
        self._lines.flush()
        self.done.add(ordinal)
        self.num_rows += num_rows
        if self._count and len(self.done) % max(1, self._count // 20) == 0:
            print(f"{len(self.done)}/{self._count} problems, {self.num_rows} {self._rows}", flush=True)

    def __enter__(self) -> Unfinished:
        self._file = self._open.enter_context(self._partial.open("r+b"))
        self._file.seek(self._size)
        self._file.truncate()
        self._lines = self._open.enter_context(self._log.open("a"))
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._open.close()
        if kind is None:
            self._partial.rename(self._target)
            self._log.unlink()


def content_of(config: AlgorithmConfig, options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Returns what a file of responses follows from: the sections of a run that matter, and options by these names."""
    sections = {key: value for key, value in config.to_dict().items() if key not in OF_NO_MATTER}
    for actors in (sections["env_runners"], *sections.get("teachers", {}).values()):
        for key in OF_NO_MATTER_TO_ACTORS & actors.keys():
            del actors[key]
    return sections | {f"--{name.replace('_', '-')}": getattr(options, name) for name in names}
