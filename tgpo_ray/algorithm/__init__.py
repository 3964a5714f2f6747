"""Algorithms as machinery: actors, iterations, checkpoints. The methods themselves live in `tgpo_ray.algorithms`."""

from tgpo_ray.algorithm.base import Algorithm, Metrics
from tgpo_ray.algorithm.on_policy import OnPolicyAlgorithm

__all__ = ["Algorithm", "Metrics", "OnPolicyAlgorithm"]
