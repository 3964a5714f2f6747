"""TokenEpisode, one episode with numbers for each of its tokens, and TokenFiles, which keeps some in a run's folder."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

TOKEN_FOLDER = "tokens"
MAX_TOKENS = 16_384  # of a response; the page says how many there were
MAX_PROMPT = 20_000  # characters
DIGITS = 4  # significant ones of a number

Piece = str | Mapping[str, str]
"""A token's text, or `{"bytes": "e282"}` where it is half of a character, or `{"special": "<|im_end|>"}`."""


@dataclass(frozen=True)
class TokenEpisode:
    """One episode of T tokens, with what its teacher and its method had to say of each.

    An array that a run has not got is None, and so is a number in it that is not known: NaN becomes null in the file.
    """

    iteration: int
    env: str  # the environment's label in the metrics
    group: int  # the group's number in its batch
    member: int  # the episode's place in the group
    problem_index: int
    outcome: str
    reward: float
    stop_reason: str
    weights_version: int
    prompt: str
    pieces: Mapping[int, Piece]  # of every id in `ids` and `teacher_ids`
    ids: np.ndarray  # (T,) int
    origin: np.ndarray  # (T,) uint8, ORIGIN_* of tgpo_ray.episode
    advantage: float | None = None  # of the episode, as the method computed it
    guidance_weight: float | None = None  # w_t of the method's guidance
    teacher_ids: np.ndarray | None = None  # (T,) int, the teacher's own word; -1: none here
    logprobs: np.ndarray | None = None  # (T,) nats, log pi(y_t) when it was sampled
    teacher_logprobs: np.ndarray | None = None  # (T,) nats, log pi_T(y_t)
    word_logprobs: np.ndarray | None = None  # (T,) nats, log pi_T(y^T_t)
    token_advantages: np.ndarray | None = None  # (T,) -dL/d log pi(y_t): what the loss does to the sampled token
    token_guidance: np.ndarray | None = None  # (T,) -dL/d log pi(y^T_t): and to the teacher's word
    gate: np.ndarray | None = None  # (T,) factor of the guidance at this token, 1 without a gate

    def row(self) -> dict[str, Any]:
        """The episode in JSON's types, cut to `MAX_TOKENS` tokens, with numbers of `DIGITS` digits."""
        ids = self.ids[:MAX_TOKENS].tolist()
        row = {it.name: _plain(getattr(self, it.name)) for it in fields(self) if it.name not in ("pieces", "origin")}
        teacher_ids = row["teacher_ids"] or []
        row["origin"] = "".join(map(str, self.origin[:MAX_TOKENS].tolist()))
        row["pieces"] = {str(i): self.pieces[i] for i in sorted({*ids, *teacher_ids} - {-1}) if i in self.pieces}
        row["prompt"] = self.prompt[:MAX_PROMPT]
        row["num_tokens"] = len(self.ids)
        return row


class TokenFiles:
    """The files of a run's episodes, `tokens/<iteration>.jsonl`, one episode a line. Each file appears whole."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder) / TOKEN_FOLDER

    def write(self, iteration: int, episodes: Sequence[TokenEpisode]) -> None:
        """Writes an iteration's episodes in place of earlier ones. None leave no file."""
        path = self.path(iteration)
        if not episodes:
            path.unlink(missing_ok=True)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(episode.row(), ensure_ascii=False, allow_nan=False) + "\n" for episode in episodes)
        temporary = path.with_name(path.name + ".tmp")
        # half of a character (a lone surrogate) becomes `?` and ends no run
        temporary.write_text(text, encoding="utf-8", errors="replace")
        os.replace(temporary, path)

    def truncate_after(self, iteration: int) -> None:
        """Deletes the files of later iterations, which a restored run writes again."""
        for number, path in self.paths():
            if number > iteration:
                path.unlink(missing_ok=True)

    def path(self, iteration: int) -> Path:
        return self.folder / f"{iteration:06d}.jsonl"

    def paths(self) -> list[tuple[int, Path]]:
        """(iteration, file), in the order of the iterations."""
        found = [path for path in self.folder.glob("*.jsonl") if path.stem.isdecimal()]
        return sorted((int(path.stem), path) for path in found)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The episodes of one file.

    Raises:
        ValueError: a line is no episode.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            for name in ("ids", "iteration", "pieces"):
                row[name]  # KeyError where it is missing, TypeError where the line is no object
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: every line must be an episode as a run writes it, got {line[:60]!r}; "
                "delete the file"
            ) from error
        rows.append(row)
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value[:MAX_TOKENS]
        return value.tolist() if value.dtype.kind in "iu" else [_rounded(number) for number in value.tolist()]
    return _rounded(value) if isinstance(value, float) else value


def _rounded(number: float) -> float | None:
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else None
