"""Token episodes written by hand, with every kind of token that a page must show."""

from __future__ import annotations

from typing import Any

import numpy as np

from tgpo_ray.reporting import TokenEpisode

PIECES: dict[int, Any] = {
    0: "<script>alert(1)</script>", 1: " the", 2: " answer", 3: "\n\n", 4: "\u202eturned", 5: {"bytes": "e282"},
    6: {"special": "<|im_end|>"}, 7: "\u0301", 8: " is", 9: "\x07\t", 10: "</script><!--",
    11: " \u05e9\u05dc\u05d5\u05dd", 12: "\u200b", 13: " \\boxed{", 14: "42",
    15: "}", 16: "&amp;", 17: " \U0001f600", 18: "\ud800",
}  # fmt: skip


def token_episode(*, iteration: int = 1, ids: list[int] | None = None, **fields: Any) -> TokenEpisode:
    """An episode of all pieces, or of these ids, whose teacher agrees on every token but each third."""
    tokens = np.asarray(list(PIECES) if ids is None else ids, np.int32)
    places = np.arange(len(tokens))
    word = np.where(places % 3 == 2, (tokens + 1) % len(PIECES), tokens)
    word[places % 7 == 6] = -1
    rest: dict[str, Any] = {
        "env": "tgpo/Math-v0", "group": 0, "member": 0, "problem_index": 17, "outcome": "correct", "reward": 1.0,
        "stop_reason": "stop", "weights_version": 3, "prompt": "What is <b>6 * 7</b>?\n\u202e", "advantage": 0.8752,
        "guidance_weight": 0.002, "origin": np.ones(len(tokens), np.uint8), "teacher_ids": word,
        "logprobs": np.full(len(tokens), -0.7), "teacher_logprobs": -0.7 - 4.5 * np.sin(places),
        "token_advantages": 0.8752 * np.cos(places / 3), "token_guidance": np.where(word >= 0, 0.002, 0.0),
        "gate": np.where(word >= 0, (places % 5) / 4, 0.0), "pieces": PIECES,
    }  # fmt: skip
    return TokenEpisode(iteration=iteration, ids=tokens, **{**rest, **fields})
