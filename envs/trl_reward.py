"""Our environments as reward functions of TRL's trainers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium

INDEX_COLUMN = "problem_index"


def as_trl_reward(env_id: str, *, seed: int = 0, failed: float | None = None, **kwargs: Any) -> Callable[..., Any]:
    """A reward function for `trl.GRPOTrainer(reward_funcs=...)` that uses a single-turn environment.

    The trainer's data set must have the column `problem_index`, as the rows of `trl_rows` do.

    Args:
        env_id: a registered id, `module:Id-v0` included.
        seed: seed of every reset; the same as for `trl_rows`.
        failed: reward of a response whose verifier failed (`timeout`, `error`). None: TRL leaves the response out.
        kwargs: arguments of the environment.
    """
    env = gymnasium.make(env_id, **kwargs).unwrapped

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        if INDEX_COLUMN not in columns:
            raise ValueError(
                f"the data set has no column {INDEX_COLUMN!r}: make its rows with trl_rows({env_id!r}, ...)"
            )
        return [
            _scored(env, int(index), _text(completion), seed, failed)
            for index, completion in zip(columns[INDEX_COLUMN], completions, strict=True)
        ]

    reward.__name__ = env_id.rpartition("/")[2].rpartition(":")[2].replace("-", "_")  # TRL's name of the metric
    return reward


def trl_rows(env_id: str, *, count: int | None = None, seed: int = 0, **kwargs: Any) -> list[dict[str, Any]]:
    """Rows `{"prompt", "problem_index"}` of an environment, for `datasets.Dataset.from_list`.

    Raises:
        ValueError: without `count` for an environment of unlimited problems.
    """
    env = gymnasium.make(env_id, **kwargs).unwrapped
    # Of the unwrapped environment: gymnasium's wrappers hide attributes.
    total = getattr(env, "num_problems", None) if count is None else count
    if total is None:
        raise ValueError(f"{env_id} has unlimited problems: say how many rows with count=")
    rows = []
    for index in range(total):
        prompt, info = env.reset(seed=seed, options={"index": index})
        rows.append({"prompt": info.get("messages") or prompt, INDEX_COLUMN: index})
    return rows


def _scored(env: Any, index: int, response: str, seed: int, failed: float | None) -> float | None:
    env.reset(seed=seed, options={"index": index})
    _, reward, terminated, truncated, info = env.step(response)
    if not (terminated or truncated):
        raise ValueError("the environment takes several turns: TRL's reward functions score single responses")
    return failed if info.get("outcome") in ("timeout", "error") else float(reward)


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else "".join(str(message["content"]) for message in completion)
