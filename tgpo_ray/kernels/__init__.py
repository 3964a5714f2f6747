"""Chunked LM-head losses: the loss and its gradient without a [tokens, vocabulary] tensor. Needs torch alone.

The seam: an algorithm writes a `TokenLoss` in plain torch, one row for each response token; `fused_token_loss` visits
every chunk of rows once and hands hidden states and head their gradients.
"""

from tgpo_ray.kernels.chunks import chunked_logprobs
from tgpo_ray.kernels.full_vocabulary import fused_divergence
from tgpo_ray.kernels.fused import fused_token_loss
from tgpo_ray.kernels.head import FusedHead, token_loss_pass
from tgpo_ray.kernels.rows import Divergence, LossOutput, TokenLoss, TokenRows

__all__ = [
    "Divergence",
    "FusedHead",
    "LossOutput",
    "TokenLoss",
    "TokenRows",
    "chunked_logprobs",
    "fused_divergence",
    "fused_token_loss",
    "token_loss_pass",
]
