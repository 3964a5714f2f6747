"""The folder of one run: claimed by one process, on a disk, or written here and copied behind a URI."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from tgpo_ray.checks import refuse_unshared
from tgpo_ray.cluster import (
    CLAIMS,
    Claim,
    ClaimedError,
    absolute,
    delete,
    is_file,
    is_folder,
    is_uri,
    join,
    names_in,
    parent,
    read_bytes,
    read_text,
    replace_file,
    shown,
    write_text,
)
from tgpo_ray.config import ConfigError
from tgpo_ray.driver.saved_checkpoints import RUN_FILE, RunState
from tgpo_ray.reporting import TOKEN_FOLDER

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig

CONFIG_FILE = "config.yaml"
FOLDERS = ("tensorboard", TOKEN_FOLDER)  # what is copied beside the files of the folder itself


def say(text: str) -> None:
    """Prints a sentence at once, without the password of a URI."""
    print(shown(text), flush=True)


def announce(config: AlgorithmConfig, path: str) -> None:
    """Say where a run writes, before its actors start. Ray must be connected.

    Raises:
        ConfigError: a node that may take a learner does not see the folder.
    """
    refuse_unshared(config, path)
    if config.reporting.progress:
        say(f"run folder: {path}")


class RunFolder:
    """A run's folder, which no other process writes into until `close`.

    Args:
        path: a folder or a URI.

    Attributes:
        local: where files are written: the folder itself, for a URI a temporary one.
    """

    def __init__(self, path: str, claim: Claim, *, storage_is_new: bool = False) -> None:
        self.path, self.claim, self._storage_is_new = path, claim, storage_is_new
        self.remote = is_uri(path)
        self.local = Path(tempfile.mkdtemp(prefix="tgpo-ray-")) if self.remote else Path(path)
        self.local.mkdir(parents=True, exist_ok=True)
        self._unpublished = False
        self._copied: dict[str, tuple[int, int]] = {}  # (bytes, time of change) of each file as it was copied

    @staticmethod
    def new(storage: str, name: str, say: Callable[[str], None]) -> RunFolder:
        """Returns a folder `<storage>/<name>`, or `<name>-2`, `<name>-3`, ... where earlier runs have the others."""
        storage = absolute(storage)
        is_new = not is_folder(storage)
        for number in itertools.count(1):
            path = join(storage, name if number == 1 else f"{name}-{number}")
            if is_taken(path):
                continue
            try:
                claim = Claim(path, say)
            except ClaimedError:
                continue
            if not is_taken(path):  # another run may have come and gone since
                return RunFolder(path, claim, storage_is_new=is_new)
            claim.release()
        raise AssertionError

    @staticmethod
    def of_run(path: str, say: Callable[[str], None]) -> RunFolder:
        """Returns the folder of an earlier run, with its files.

        Raises:
            ConfigError: there is no such folder, it holds no finished checkpoint, or another process writes into it.
        """
        path = absolute(path)
        if not is_folder(path):
            raise ConfigError([f"--resume: no such folder: {path}; a run prints its folder first"])
        if not is_file(join(path, RUN_FILE)):
            reason = f"it holds no {RUN_FILE}, so no checkpoint was finished: start a new run"
            raise ConfigError([f"--resume: {path} cannot be continued: {reason}"])
        try:
            folder = RunFolder(path, Claim(path, say))
        except ClaimedError as error:
            raise ConfigError([f"--resume: {error}: wait for its end, or end it"]) from None
        folder.fetch()
        return folder

    def fetch(self) -> None:
        """Copy the files of an earlier run from a URI, without its checkpoints. They are where the learners write."""
        if not self.remote:
            return
        tokens = join(self.path, TOKEN_FOLDER)
        inside = [f"{TOKEN_FOLDER}/{name}" for name in names_in(tokens)] if is_folder(tokens) else []
        for name in [*names_in(self.path), *inside]:
            source, file = join(self.path, *name.split("/")), self.local / name
            if is_file(source) and not name.endswith(".tmp"):
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(read_bytes(source))
                self._copied[name] = _change(file)

    def record(self, state: RunState) -> None:
        """Write run.json, behind a URI after every other file: what it names is there."""
        self.publish()
        write_text(join(self.path, RUN_FILE), state.text())

    def publish(self) -> None:
        """Copy what has changed to the URI, and delete there what was deleted here. Each file appears whole."""
        if not self.remote:
            return
        files = [*self.local.iterdir(), *(file for name in FOLDERS for file in (self.local / name).rglob("*"))]
        for file in files:
            name = file.relative_to(self.local).as_posix()
            if not file.is_file() or name == RUN_FILE or name.endswith(".tmp"):
                continue
            if self._copied.get(name) != (change := _change(file)):
                replace_file(file, join(self.path, *name.split("/")))
                self._copied[name] = change
        for name in [name for name in self._copied if not (self.local / name).is_file()]:
            delete(join(self.path, *name.split("/")))
            del self._copied[name]

    def publish_or_keep(self, say: Callable[[str], None]) -> None:
        """Copy what has changed to the URI, or say where it stays where the URI does not answer."""
        try:
            self.publish()
            self._unpublished = False
        except OSError as error:
            self._unpublished = True
            say(f"WARNING: {self.path} does not take the last files ({error}): they stay in {self.local}")

    def discard_if_empty(self) -> None:
        """Removes the folder if it holds nothing of a run, so that a failed start leaves no trace."""
        self.claim.release()
        if not is_taken(self.path):
            delete(self.path)
            if self._storage_is_new and not names_in(parent(self.path)):
                delete(parent(self.path))

    def close(self) -> None:
        """Give the folder free. A second call is safe."""
        with contextlib.suppress(OSError):  # a store that does not answer: the claim is a dead run's to the next one
            self.claim.release()
        if self.remote and not self._unpublished:
            shutil.rmtree(self.local, ignore_errors=True)


def _change(file: Path) -> tuple[int, int]:
    """Returns (bytes, time of change), by which a file that has changed is known."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def is_taken(path: str) -> bool:
    """Returns whether an earlier run has left something at `path`: more than a claim and the learners' empty folder."""
    if is_file(path):
        return True
    for name in names_in(path):
        if name == CLAIMS:
            continue
        inside = names_in(join(path, name)) if is_folder(join(path, name)) else None
        if inside is None or any(not entry.startswith(".") for entry in inside):
            return True
    return False


def newest_run(storage: str, name: str) -> str | None:
    """Returns the newest run of this name that has a checkpoint, as `--resume auto` takes it, or None."""
    storage = absolute(storage)
    found = []
    for entry in names_in(storage):
        numbered = re.fullmatch(rf"{re.escape(name)}(?:-(\d+))?", entry)
        folder = join(storage, entry)
        if numbered and is_file(join(folder, RUN_FILE)) and _name_in(folder) == name:
            found.append((int(numbered[1] or 1), folder))
    return max(found)[1] if found else None


def _name_in(folder: str) -> str | None:
    """The name in the folder's configuration: the second run of `a` and the first of `a-2` have one folder's name."""
    try:
        return yaml.safe_load(read_text(join(folder, CONFIG_FILE))).get("name")
    except (FileNotFoundError, ValueError, AttributeError, yaml.YAMLError):
        return None
