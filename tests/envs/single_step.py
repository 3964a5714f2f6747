"""One response to one problem of a single-turn environment."""

from __future__ import annotations

from typing import Any


def step(env: Any, index: int, response: str) -> tuple[float, dict[str, Any]]:
    """(reward, info); the episode ends, and not for its length."""
    env.reset(seed=0, options={"index": index})
    _, reward, terminated, truncated, info = env.step(response)
    assert terminated and not truncated
    return float(reward), info
