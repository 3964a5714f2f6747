"""Weights of learners, and how far two sets of them are apart."""

from __future__ import annotations

from typing import Any

import torch

from tgpo_ray.models.weight_buckets import read_buckets

Weights = dict[str, torch.Tensor]


def weights_of(learners: Any) -> Weights:
    """A copy of each weight as runners would get it, in float32."""
    return {name: weight.float().clone() for name, weight in read_buckets(learners.weight_buckets())}


def gap(left: Weights, right: Weights) -> float:
    """The largest difference between any two weights of one name."""
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)
