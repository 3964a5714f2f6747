"""Chunked LM-head losses: the loss and its gradient without a [tokens, vocabulary] tensor. It needs only torch.

An algorithm writes a `TokenLoss` in plain torch, with one row for each response token, and `fused_token_loss` visits
every chunk of rows once and gives hidden states and head their gradients.
"""

from tgpo_ray.kernels.chunks import (
    CPU_CHUNK_BYTES,
    CUDA_CHUNK_BYTES,
    HeadChunks,
    check_targets,
    chunked_logprobs,
    release_buffers,
)
from tgpo_ray.kernels.full_vocabulary import fused_divergence
from tgpo_ray.kernels.fused import fused_token_loss
from tgpo_ray.kernels.head import FusedHead, token_loss_pass
from tgpo_ray.kernels.products import matmul_into
from tgpo_ray.kernels.rows import Divergence, LossOutput, TokenLoss, TokenRows
from tgpo_ray.kernels.transform import PLAIN, HeadWeights, LogitTransform

__all__ = [
    "CPU_CHUNK_BYTES",
    "CUDA_CHUNK_BYTES",
    "PLAIN",
    "Divergence",
    "FusedHead",
    "HeadChunks",
    "HeadWeights",
    "LogitTransform",
    "LossOutput",
    "TokenLoss",
    "TokenRows",
    "check_targets",
    "chunked_logprobs",
    "fused_divergence",
    "fused_token_loss",
    "matmul_into",
    "release_buffers",
    "token_loss_pass",
]
