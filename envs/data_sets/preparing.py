"""From the rows of a data set to a training file, one row at a time."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from ..row_store import Row
from ..rows import stream_rows
from ..verifiers.math_answer import check_gold
from .counts import AFTER_TRACE, Counts
from .overlap import MIN_SHARE, NGRAM, EvaluationProblems, fingerprint, tokens_of
from .sources import EVALUATION, MEANINGS, Columns, Source
from .traces import TraceFile, TraceVerifier


@dataclass
class Preparation:
    """What is made of a data set, and what has been counted so far.

    Args:
        path: the file or data set that is read.
        chosen: columns by meaning, as the user says.
        evaluation: problems that must not be in the file.
        verifier: keeps the rows whose trace is right, with the columns `prompt` and `response`; None: all rows.
        traces: the teacher's file; None: the traces are a column of the data set.
        limit: rows that are read; None: all.
    """

    source: Source
    path: str
    subset: str | None = None
    split: str | None = None
    chosen: Mapping[str, str] = field(default_factory=dict)
    evaluation: EvaluationProblems = field(default_factory=EvaluationProblems)
    verifier: TraceVerifier | None = None
    traces: TraceFile | None = None
    limit: int | None = None
    counts: Counts = field(default_factory=Counts)
    columns: Columns | None = None
    overlaps: dict[str, int] = field(default_factory=dict)  # rows left out, by evaluation set
    digests: dict[str, str] = field(default_factory=dict)  # sha256 of the values read, and of the file written
    _seen: dict[bytes, bytes] = field(default_factory=dict, repr=False)

    def rows(self, removed: TextIO) -> Iterator[dict[str, Any]]:
        """Yields the rows of the file to write, and writes into `removed` which rows are left out, and why."""
        candidates = self._candidates(removed)
        if self.verifier is None:
            yield from candidates
            return
        for row, outcome in self.verifier.verdicts(candidates):
            if outcome == "correct":
                yield row
            else:
                self._leave_out(removed, row["row"], AFTER_TRACE[outcome])

    def _candidates(self, removed: TextIO) -> Iterator[dict[str, Any]]:
        """Yields the rows that are complete, new and not part of an evaluation set."""
        digest = hashlib.sha256()
        for number, values in enumerate(self._values()):
            self.counts.read += 1
            digest.update(json.dumps(values).encode())
            if reason := self._fault(values):
                self._leave_out(removed, number, reason)
                continue
            row = {"problem": values["problem"], "answer": values["answer"], "row": number}
            tokens = tokens_of(row["problem"])
            if reason := self._repetition(fingerprint(tokens), row["answer"]):
                self._leave_out(removed, number, reason)
            elif overlap := self.evaluation.overlap(tokens):
                self.overlaps[overlap.name] = self.overlaps.get(overlap.name, 0) + 1
                where = {"set": overlap.name, "its_row": overlap.row, "share": round(overlap.share, 3)}
                self._leave_out(removed, number, "overlap", **where)
            elif self.verifier is None:
                yield row
            elif (traced := self._traced(row, values, self.verifier)) is not None:
                yield traced
            else:
                self._leave_out(removed, number, "no trace")
        self.digests["read"] = digest.hexdigest()

    def _values(self) -> Iterator[dict[str, str | None]]:
        """Yields the values of each row by meaning."""
        traced = self.verifier is not None and self.traces is None
        meanings = MEANINGS if traced else MEANINGS[:2]
        rows = stream_rows(self.path, subset=self.subset, split=self.split)
        for number, row in enumerate(islice(rows, self.limit)):
            self.columns = self.columns or Columns.of(self.source, self.chosen, row, meanings, self.path)
            yield self._read(self.columns, row, number)

    def _read(self, columns: Columns, row: Row, number: int) -> dict[str, str | None]:
        try:
            return columns.values(row)
        except ValueError as failure:
            raise ValueError(f"{self.path}, row {number}: {failure}") from failure

    def _fault(self, values: Mapping[str, str | None]) -> str | None:
        if values["answer"] == "":
            return "no box in the worked solution"
        if not all(values.values()):
            return "incomplete"
        try:
            check_gold(str(values["answer"]))
        except ValueError:
            return "unreadable answer"
        return None

    def _repetition(self, key: bytes, answer: str) -> str | None:
        mark = fingerprint(tokens_of(answer))
        earlier = self._seen.setdefault(key, mark)
        if earlier is mark:  # it was not there
            return None
        return "duplicate" if earlier == mark else "duplicate, other answer"

    def _traced(
        self, row: dict[str, Any], values: Mapping[str, str | None], verifier: TraceVerifier
    ) -> dict[str, Any] | None:
        prompt = verifier.prompt(row["problem"])
        trace = values["trace"] if self.traces is None else self.traces.trace(prompt)
        if trace is None:
            return None
        # the teacher's own file has responses to this very prompt
        response = verifier.response(trace) if self.traces is None else trace
        return {**row, "prompt": prompt, "response": response, "reward": 1.0}

    def _leave_out(self, removed: TextIO, number: int, reason: str, **where: Any) -> None:
        self.counts.left_out[reason] += 1
        removed.write(json.dumps({"row": number, "reason": reason, **where}) + "\n")


def prepare(preparation: Preparation, target: Path) -> Preparation:
    """Writes the training file and, beside it, `<name>.removed.jsonl`; both get their names when they are complete.

    Raises:
        FileNotFoundError, ImportError, ValueError: the data set cannot be read, a column is missing, or no row is left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # a folder of this run's own: `X.jsonl.partial` may be another command's, which goes on from it
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder:
        partial, removed = Path(folder) / "rows.jsonl", Path(folder) / "removed.jsonl"
        _write(preparation, partial, removed)
        if not preparation.counts.written:
            reasons = ", ".join(f"{count} {reason}" for reason, count, _ in preparation.counts.table()) or "it is empty"
            raise ValueError(f"{preparation.path}: no row is left of {preparation.counts.read} ({reasons})")
        removed.rename(beside(target, ".removed.jsonl"))
        partial.rename(target)
    return preparation


def _write(preparation: Preparation, target: Path, removed: Path) -> None:
    digest = hashlib.sha256()
    with target.open("w", encoding="utf-8") as file, removed.open("w", encoding="utf-8") as removed_file:
        for row in preparation.rows(removed_file):
            line = json.dumps(row, ensure_ascii=False) + "\n"
            file.write(line)
            digest.update(line.encode())
            preparation.counts.written += 1
    preparation.digests["written"] = digest.hexdigest()


def evaluation_problems(
    paths: Sequence[str], *, ngram: int = NGRAM, min_share: float = MIN_SHARE
) -> EvaluationProblems:
    """Returns the problems of evaluation sets, each called by its path.

    Args:
        paths: files or data sets, each with the column of its problems where that has another name: `eval.jsonl:text`.

    Raises:
        FileNotFoundError, ImportError, ValueError: a set cannot be read, is empty, has no column of problems, or a row
            without one.
    """
    found = EvaluationProblems(ngram=ngram, min_share=min_share)
    for path in paths:
        found.add(path, _problems(path))
        if path not in found.sizes:
            raise ValueError(f"--against: {path} has no rows")
    return found


def _problems(named: str) -> Iterator[str]:
    path, chosen = _path_and_column(named)
    columns = None
    for number, row in enumerate(stream_rows(path)):
        columns = columns or Columns.of(EVALUATION, chosen, row, ("problem",), f"--against: {path}")
        try:
            problem = columns.values(row)["problem"]
        except ValueError as failure:
            raise ValueError(f"--against: {path}, row {number}: {failure}") from failure
        if not problem:
            raise ValueError(
                f"--against: {path}, row {number} has no problem in the column {columns.names['problem']!r}: fill it "
                "in, drop the row, or name another column with --against FILE:<column>"
            )
        yield problem


def _path_and_column(named: str) -> tuple[str, dict[str, str]]:
    """`eval.jsonl` and the column `text` of `eval.jsonl:text`."""
    path, colon, column = named.rpartition(":")
    if not colon or Path(named).expanduser().exists():
        return named, {}
    if not path or not column:
        raise ValueError(f"--against: must be FILE or FILE:column, got {named!r}")
    return path, {"problem": column}


def beside(target: Path, ending: str) -> Path:
    """`folder/name.md` for `folder/name.jsonl` and the ending `.md`."""
    return target.with_name(target.name.removesuffix(".jsonl") + ending)
