"""The file of one model's answers to one set: a header, then a line for each problem, as soon as it is answered."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

FORMAT = 1
BEGINNING = b'{"format": '  # of every header
FOREIGN = f"{{path}} is no file of answers (its first line is no header of format {FORMAT}): move it away"
DATA_HASH = "data_sha256"  # in `scoring`; headers of earlier versions lack it
SYNC_S = 1.0  # between two writes that must reach the disk


@dataclass(frozen=True, slots=True)
class Answer:
    """One response and its verdict."""

    text: str
    outcome: str  # one of episode.OUTCOMES
    reward: float
    answer: str | None  # as the verifier read it
    stop_reason: str  # one of episode.STOP_REASONS
    num_tokens: int


@dataclass(frozen=True, slots=True)
class ProblemAnswers:
    """The k responses to one problem."""

    problem: int
    prompt_hash: str
    prompt: str
    prompt_end: str | None  # of a chat, as the model has read it; None: the prompt is text
    answers: tuple[Answer, ...]

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> ProblemAnswers:
        """Returns what a line of the file says."""
        answers = tuple(Answer(**answer) for answer in row["answers"])
        return cls(row["problem"], row["prompt_hash"], row["prompt"], row["prompt_end"], answers)


class AnswersFile:
    """Appends answers to a file. What was appended survives the death of the process; a torn last line is dropped.

    Args:
        header: `sampling`, what the responses follow from; `scoring`, what the verdicts follow from; and `left_out`,
            the problems whose prompts are too long for the model.
        prompts: hashes of the prompts by problem, which the answers must be to.

    Raises:
        ValueError: the file holds answers of another model, prompt or sampling, or verdicts of other options; another
            process writes to it; or a line in its middle cannot be read.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], prompts: Mapping[int, str] | None = None) -> None:
        self.path, self._synced = path, 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("a+b")
        try:
            _lock(self._file, path)
            self.done: dict[int, str] = {}  # problem -> hash of its prompt
            _refuse_foreign(self._file, path)
            if _without_torn_line(self._file):
                there = read_header(path)
                _refuse_other_sampling(path, there, header)
                self.done = {row["problem"]: row["prompt_hash"] for row in _rows(path)}
                _refuse_other_prompts(path, self.done, prompts or {})
                _refuse_other_scoring(path, there, header)
            else:
                self._write({"format": FORMAT, **header})
                self.sync()
        except BaseException:
            self._file.close()
            raise

    def append(self, row: ProblemAnswers) -> None:
        """Add the answers to one problem."""
        self._write(asdict(row))
        self.done[row.problem] = row.prompt_hash
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()

    def sync(self) -> None:
        """Have what was appended reach the disk, so that it also survives the death of the machine."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _write(self, value: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self._file.flush()

    def close(self) -> None:
        """A second call does nothing."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read_header(path: Path) -> dict[str, Any]:
    """Returns the first line of a file.

    Raises:
        ValueError: it is no file of answers.
    """
    with path.open("rb") as file:
        line = file.readline()
    try:
        header = json.loads(line)
        if header["format"] == FORMAT and header["sampling"] is not None and header["scoring"] is not None:
            return header
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(FOREIGN.format(path=path))


def read_answers(path: Path) -> Iterator[ProblemAnswers]:
    """Yields the answers of a file, one problem after the other. A torn last line is left out."""
    for row in _rows(path):
        yield ProblemAnswers.of_row(row)


def replace_answers(path: Path, header: Mapping[str, Any], rows: Iterator[ProblemAnswers]) -> None:
    """Put other verdicts in the place of a file's. The file is the old one until the new one is whole."""
    new = path.with_name(path.name + ".new")
    with path.open("a+b") as held:
        _lock(held, path)
        new.unlink(missing_ok=True)
        with AnswersFile(new, header) as file:
            for row in rows:
                file.append(row)
        os.replace(new, path)


def differences(first: Any, second: Any, key: str = "") -> list[str]:
    """Returns a line `key: first, second` for each value in which two nested mappings differ."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        names = [*first, *(name for name in second if name not in first)]
        parts = [differences(first.get(name), second.get(name), f"{key}.{name}" if key else name) for name in names]
        return [line for part in parts for line in part]
    return [] if first == second else [f"{key}: {_short(first)} there, {_short(second)} here"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _refuse_foreign(file: BinaryIO, path: Path) -> None:
    """Refuses what begins otherwise than a header, before anything is cut off. Of a header a beginning may be left."""
    file.seek(0)
    line = file.readline()
    if line.endswith(b"\n"):
        read_header(path)
    elif not (line.startswith(BEGINNING) or BEGINNING.startswith(line)):
        raise ValueError(FOREIGN.format(path=path))


def _refuse_other_sampling(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    here = json.loads(json.dumps(here))  # what JSON makes of it: a tuple comes back as a list
    if found := differences(there["sampling"], here["sampling"]):
        raise ValueError(
            f"{path} holds answers that were sampled in another way, and the two are not mixed ({'; '.join(found)}): "
            "name another folder with --to, or move the file away"
        )


def _refuse_other_scoring(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    scoring = json.loads(json.dumps(here["scoring"]))
    if DATA_HASH not in there["scoring"]:
        scoring.pop(DATA_HASH, None)
    if found := differences(there["scoring"], scoring):
        raise ValueError(
            f"{path} holds verdicts of other options ({'; '.join(found)}): score its answers again with --rescore, "
            "which samples nothing"
        )


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel gives it free when the process ends
    except BlockingIOError:
        raise ValueError(f"{path}: another evaluation writes to this file: wait for it, or name another --to") from None


def _without_torn_line(file: BinaryIO) -> bool:
    """Returns whether a whole line is left, after cutting off what a killed process has left unfinished."""
    size = end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        file.truncate(end)
    return end > 0


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        next(lines, None)  # the header
        for number, line in enumerate(lines, start=2):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError:
                raise ValueError(f"{path}, line {number} is damaged: delete that line; the rest is kept") from None


def missing_of(file: AnswersFile, hashes: Mapping[int, str]) -> Sequence[int]:
    """Returns the problems without answers.

    Args:
        hashes: of the prompts of all problems.
    """
    return [problem for problem in hashes if problem not in file.done]


def _refuse_other_prompts(path: Path, done: Mapping[int, str], prompts: Mapping[int, str]) -> None:
    for problem, found in done.items():
        if prompts.get(problem, found) != found:
            raise ValueError(
                f"{path} holds answers to another prompt of problem {problem} (another data set, prompt, system "
                "prompt or order of options): name another folder with --to, or move the file away"
            )
