"""Scores answers with reasoning-gym. Runs in a worker, loaded by file path: no relative imports here."""

from __future__ import annotations

import base64
import functools
import json
import pickle
from typing import Any

import reasoning_gym


@functools.lru_cache(maxsize=64)
def data_set(name: str, config: str) -> Any:
    return reasoning_gym.create_dataset(name, **json.loads(config))


def score(name: str, config: str, entry: str, answer: str) -> dict[str, Any]:
    """The task's own `score_answer`, in [0, 1].

    `entry` is the environment's own entry, pickled, because its metadata need not be JSON; it never holds text of a
    model. What `score_answer` raises on an answer of the wrong form is a wrong answer by reasoning-gym's own habit, but
    cannot be told from a defect of the task here, so it is an `error`.
    """
    value = float(data_set(name, config).score_answer(answer, pickle.loads(base64.b64decode(entry))))
    return {"score": min(1.0, max(0.0, value)), "extracted": answer[:200]}
