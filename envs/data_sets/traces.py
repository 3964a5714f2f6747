"""Traces: where they come from, and whether the verifier approves of them."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..format_gate import OPEN
from ..math_env import MATH_ANSWER
from ..prompt_options import PromptOptions
from ..verdict import UNPARSABLE, Verdict
from ..verifiers import VerifierPool
from .overlap import fingerprint

AHEAD = 64  # rows for each worker that wait for their verdicts
SETTINGS = {"rounding": 6, "require_box": True}


@dataclass(frozen=True)
class TraceVerifier:
    """Verifies traces as `tgpo/Math-v0` verifies responses, each within a deadline, in processes of their own."""

    pool: VerifierPool
    options: PromptOptions

    def prompt(self, problem: str) -> str:
        """The prompt that the environment gives for the problem."""
        return self.options.template.text(problem)

    def response(self, trace: str) -> str:
        """The trace as a response: without the `<think>` that the prompt ends with already."""
        return trace.removeprefix(OPEN).lstrip("\n") if self.options.template.opens_thought else trace

    def submit(self, answer: str, response: str) -> Future[Verdict]:
        """A future of the verdict on a response."""
        text = self.options.gate.scored_text(response)
        if text is not None:
            return self.pool.submit(MATH_ANSWER, answer, text, SETTINGS)
        refused: Future[Verdict] = Future()
        refused.set_result(Verdict(0.0, UNPARSABLE))
        return refused

    def verdicts(self, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
        """Yields each row, in its order, with the outcome for its `response`. A few rows wait at a time."""
        waiting: deque[tuple[dict[str, Any], Future[Verdict]]] = deque()
        for row in rows:
            waiting.append((row, self.submit(row["answer"], row["response"])))
            if len(waiting) > AHEAD * self.pool.num_workers:
                first, future = waiting.popleft()
                yield first, future.result().outcome
        for row, future in waiting:
            yield row, future.result().outcome


@contextlib.contextmanager
def trace_verifier(num_workers: int, deadline_s: float, **options: Any) -> Iterator[TraceVerifier]:
    """Yields a verifier with processes of its own, which end with the `with` block. `options`: of the prompt.

    Raises:
        ValueError: for an unknown prompt style, or a deadline that is not positive.
    """
    prompt_options = PromptOptions(**options)
    with VerifierPool(num_workers, deadline_s=deadline_s) as pool:
        yield TraceVerifier(pool, prompt_options)


@dataclass
class TraceFile:
    """A jsonl file of `tgpo-ray traces` (`prompt`, `response`), of which memory holds only where each row begins.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or a row of it is not as it should be.
    """

    path: Path
    _offsets: dict[bytes, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise FileNotFoundError(f"--traces: no such file: {self.path}")
        with self.path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = self._row(line, number)
                    self._offsets.setdefault(_key(row["prompt"]), offset)
                offset += len(line)

    def trace(self, prompt: str) -> str | None:
        """The first response to this prompt, or None."""
        offset = self._offsets.get(_key(prompt))
        if offset is None:
            return None
        with self.path.open("rb") as file:
            file.seek(offset)
            return json.loads(file.readline())["response"]

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError as failure:
            raise ValueError(f"--traces: {self.path}, line {number} is not JSON: {failure}") from failure
        if not isinstance(row, dict):
            raise ValueError(f"--traces: {self.path}, line {number} must be a JSON object")
        for column in ("prompt", "response"):
            if not isinstance(row.get(column), str):
                raise ValueError(
                    f"--traces: {self.path}, line {number} has no text in the column {column!r}. Columns found: "
                    f"{', '.join(row)}. `tgpo-ray traces` writes such files"
                )
        return row


def _key(prompt: str) -> bytes:
    return fingerprint((prompt,))
