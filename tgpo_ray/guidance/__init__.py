"""Guidance by a teacher, for any environment and any RL trainer. Needs torch and numpy alone."""

from tgpo_ray.guidance.advantage import guidance_advantage
from tgpo_ray.guidance.loss import fused_guidance_loss, guidance_loss, guidance_loss_from_logits
from tgpo_ray.guidance.schedules import ConstantWeight, CosineDecay, LinearDecay
from tgpo_ray.guidance.vocabulary import VocabularyMap

__all__ = [
    "ConstantWeight",
    "CosineDecay",
    "LinearDecay",
    "VocabularyMap",
    "fused_guidance_loss",
    "guidance_advantage",
    "guidance_loss",
    "guidance_loss_from_logits",
]
