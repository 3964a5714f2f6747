"""Problems and scores of reasoning-gym. Runs in a worker, loaded by file path: no relative imports here."""

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


def load_data_set(name: str, config: str, *_: Any) -> None:
    """Some tasks prepare all of their problems at once: no verification's time."""
    data_set(name, config)


def make(name: str, config: str, index: int) -> dict[str, Any]:
    """Entry `index` of the data set: question, answer (None where the task gives none), and all of it, pickled.

    Several tasks iterate over sets of strings, so that their problems follow PYTHONHASHSEED; workers have one and the
    same. The pickle is for `score` alone: its metadata need not be JSON.
    """
    entry = data_set(name, config)[index]
    answer = entry["answer"]
    packed = base64.b64encode(pickle.dumps(entry)).decode()
    made = {"question": str(entry["question"]), "answer": None if answer is None else str(answer), "packed": packed}
    return {"score": 0.0, "data": made}


def score(name: str, config: str, packed: str, answer: str) -> dict[str, Any]:
    """The task's own `score_answer`, in [0, 1].

    `packed` is from `make`; it never holds text of a model. What `score_answer` raises on an answer of the wrong form
    is a wrong answer by reasoning-gym's own habit, but cannot be told from a defect of the task here, so it is an
    `error`.
    """
    value = float(data_set(name, config).score_answer(answer, pickle.loads(base64.b64decode(packed))))
    return {"score": min(1.0, max(0.0, value)), "extracted": answer[:200]}


make.before_deadline = load_data_set  # pyright: ignore[reportFunctionMemberAccess]
score.before_deadline = load_data_set  # pyright: ignore[reportFunctionMemberAccess]
