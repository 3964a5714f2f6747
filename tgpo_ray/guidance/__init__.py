"""Guidance by a teacher, for any environment and any RL trainer. Only torch and numpy are needed."""

from tgpo_ray.guidance.advantage import Signal, guidance_advantage
from tgpo_ray.guidance.alignment import TextAlignment
from tgpo_ray.guidance.diagnostics import (
    GuidanceBatch,
    agreement,
    by_position,
    diagnostic_sums,
    guidance_diagnostics,
    out_of_vocabulary,
    policy_argmax,
    positions_in_sequence,
    teacher_confidence,
    zero_advantage_taught,
)
from tgpo_ray.guidance.divergence import (
    histogram_quantile,
    kl_k3,
    log_ratio,
    log_ratio_histogram,
    log_ratio_quantile,
    masked_mean_parts,
    share_above,
)
from tgpo_ray.guidance.gradients import (
    GradientComparison,
    compare_parameter_gradients,
    gradient_ratio,
    hidden_gradient_norms,
    logit_gradient_norms,
)
from tgpo_ray.guidance.loss import fused_guidance_loss, guidance_loss, guidance_loss_from_logits
from tgpo_ray.guidance.schedules import (
    CallableWeight,
    ConstantWeight,
    CosineDecay,
    GuidanceWeight,
    LinearDecay,
    Schedule,
    as_schedule,
)
from tgpo_ray.guidance.targets import (
    argmax_targets,
    guidance_mask,
    merge_duplicate_targets,
    sampled_targets,
    topk_targets,
)
from tgpo_ray.guidance.token_bytes import TokenBytes
from tgpo_ray.guidance.topk import fused_topk_guidance_loss, topk_guidance_loss, topk_guidance_loss_from_logits
from tgpo_ray.guidance.translator import UNREADABLE_LOGPROB, TokenTranslator, VocabularySummary
from tgpo_ray.guidance.vocabulary import VocabularyMap

__all__ = [
    "UNREADABLE_LOGPROB",
    "CallableWeight",
    "ConstantWeight",
    "CosineDecay",
    "GradientComparison",
    "GuidanceBatch",
    "GuidanceWeight",
    "LinearDecay",
    "Schedule",
    "Signal",
    "TextAlignment",
    "TokenBytes",
    "TokenTranslator",
    "VocabularyMap",
    "VocabularySummary",
    "agreement",
    "argmax_targets",
    "as_schedule",
    "by_position",
    "compare_parameter_gradients",
    "diagnostic_sums",
    "fused_guidance_loss",
    "fused_topk_guidance_loss",
    "gradient_ratio",
    "guidance_advantage",
    "guidance_diagnostics",
    "guidance_loss",
    "guidance_loss_from_logits",
    "guidance_mask",
    "hidden_gradient_norms",
    "histogram_quantile",
    "kl_k3",
    "log_ratio",
    "log_ratio_histogram",
    "log_ratio_quantile",
    "logit_gradient_norms",
    "masked_mean_parts",
    "merge_duplicate_targets",
    "out_of_vocabulary",
    "policy_argmax",
    "positions_in_sequence",
    "sampled_targets",
    "share_above",
    "teacher_confidence",
    "topk_guidance_loss",
    "topk_guidance_loss_from_logits",
    "topk_targets",
    "zero_advantage_taught",
]
