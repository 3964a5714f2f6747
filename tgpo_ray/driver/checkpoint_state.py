"""The driver's part of a checkpoint, a JSON file beside the learners' files."""

from __future__ import annotations

import json
from typing import Any

from tgpo_ray.cluster import read_text

STATE_FILE = "algorithm.json"


def read_state(path: str, algorithm: str) -> dict[str, Any]:
    """Returns the driver's state in the checkpoint at `path`.

    Raises:
        ValueError: `path` is no checkpoint, or one of another algorithm.
    """
    try:
        state: dict[str, Any] = json.loads(read_text(f"{path}/{STATE_FILE}"))
    except FileNotFoundError:
        raise ValueError(f"{path} is not a checkpoint: it holds no {STATE_FILE}") from None
    if state["algorithm"] != algorithm:
        raise ValueError(f"{path} is a checkpoint of {state['algorithm']}, this is {algorithm}")
    return state
