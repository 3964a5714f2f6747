"""Whether a model gives the same log-probs in a layout as in one sequence alone: asked before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tgpo_ray.episode import ORIGIN_POLICY, Episode
from tgpo_ray.learners.batch import TrainEpisode
from tgpo_ray.learners.tokens import Layout

LogProbs = Callable[[Sequence[TrainEpisode], Layout], list[np.ndarray]]

LENGTHS = ((7, 4), (7, 6), (3, 5), (1, 2))  # prompt and response tokens; the first two share a prompt
LARGEST_GAP = {"float32": 1e-4, "bfloat16": 0.1}  # nats, mean over the tokens: rounding is far below


def check_layout(layout: Layout, model: Any, logprobs: LogProbs, dtype: str) -> None:
    """Compare a few random sequences in this layout with each of them alone.

    Args:
        logprobs: what the model gives the response tokens of each episode, in a layout.
        dtype: the precision it computes in.

    Raises:
        ValueError: the model's cache is not one of plain keys and values, as `shared_prompt` needs. Or the model gives
            other log-probs in this layout, for example because it does not read `position_ids`.
    """
    if layout == "shared_prompt":
        _require_plain_cache(model.config)
    episodes = random_episodes(model.config.get_text_config().vocab_size)
    try:
        found = np.concatenate(logprobs(episodes, layout))
    except Exception as error:
        raise ValueError(
            f"learners.layout: {type(model).__name__} cannot run in the layout {layout} ({type(error).__name__}: "
            f"{error}); use padded"
        ) from error
    expected = np.concatenate([logprobs([one], "padded")[0] for one in episodes])
    gap = float(np.abs(found - expected).mean())
    if not gap <= LARGEST_GAP[dtype]:
        raise ValueError(
            f"learners.layout: in the layout {layout}, {type(model).__name__} gives log-probs that are {gap:.2g} nats "
            f"from those of a sequence alone (at most {LARGEST_GAP[dtype]:g} is rounding): it may not read "
            "position_ids or the masks of this layout; use padded"
        )


def _require_plain_cache(config: Any) -> None:
    from transformers import DynamicCache

    kinds = {type(layer).__name__ for layer in DynamicCache(config=config).layers} - {"DynamicLayer"}
    if kinds:
        raise ValueError(
            f"learners.layout: shared_prompt needs a cache that holds keys and values of all tokens in each layer, "
            f"{type(config).__name__} has {', '.join(sorted(kinds))} (sliding windows, recurrent states): use padded "
            "or packed"
        )


def random_episodes(vocabulary: int) -> list[TrainEpisode]:
    """Returns episodes of random tokens below `vocabulary`, the first two of one group."""
    rng = np.random.default_rng(0)
    prompts = {length: rng.integers(0, vocabulary, length) for length, _ in LENGTHS}
    return [
        TrainEpisode((i, 0), _episode(prompts[length], rng.integers(0, vocabulary, count)), {}, 0.0)
        for i, (length, count) in enumerate(LENGTHS)
    ]


def _episode(prompt: np.ndarray, response: np.ndarray) -> Episode:
    origin = np.full(len(response), ORIGIN_POLICY, np.uint8)
    return Episode(
        prompt.astype(np.int32), response.astype(np.int32), origin, 0.0, "wrong", "stop", "layout check", 0, 0, 0
    )
