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
    """Loads the data set before the deadline runs, as some tasks prepare all of their problems at once."""
    data_set(name, config)


def make(name: str, config: str, index: int) -> dict[str, Any]:
    """Entry `index` of the data set: question, answer (None where the task gives none), and all of it, pickled.

    Several tasks iterate over sets of strings, so their problems depend on PYTHONHASHSEED. All workers have the same
    one. The pickle is only for `score`, as its metadata need not be JSON.
    """
    entry = data_set(name, config)[index]
    answer = entry["answer"]
    packed = base64.b64encode(pickle.dumps(entry)).decode()
    problem = {"question": str(entry["question"]), "answer": None if answer is None else str(answer), "packed": packed}
    return {"score": 0.0, "data": problem}  # the score is not read: a worker's reply must have one


def score(name: str, config: str, packed: str, answer: str) -> dict[str, Any]:
    """The task's own `score_answer`, in [0, 1].

    `packed` is from `make` and never holds text of a model, so unpickling it is safe. reasoning-gym counts an exception
    of `score_answer` as a wrong answer. Here it cannot be told from a defect of the task, so it is an `error`.
    """
    value = float(data_set(name, config).score_answer(answer, pickle.loads(base64.b64decode(packed))))
    return {"score": min(1.0, max(0.0, value)), "extracted": answer[:200]}


make.before_deadline = load_data_set  # pyright: ignore[reportFunctionMemberAccess]
score.before_deadline = load_data_set  # pyright: ignore[reportFunctionMemberAccess]
