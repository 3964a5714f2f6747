"""RoPE base and context from `model.hf_overrides` reach learner, vLLM and export alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tgpo_ray.actors import actor, kill
from tgpo_ray.building import build_learners, engine_spec
from tgpo_ray.engine import Engine, engine_environment, prompt_scores

ORIGINAL_CONTEXT, CONTEXT, LENGTH = 64, 256, 200
OVERRIDES = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 40000.0},
    "max_position_embeddings": CONTEXT,
}


class Scorer:
    """An engine that says what log-probs it gives to a text."""

    def __init__(self, spec: Any) -> None:
        self._engine = Engine(spec)

    def logprobs(self, token_ids: list[int]) -> np.ndarray:
        self._engine.score(token_ids, top_k=1)
        (output,) = [output for _ in iter(lambda: self._engine.busy, False) for output in self._engine.step()]
        return prompt_scores(output, 1)[0]

    def stop(self) -> None:
        """Nothing to close."""
