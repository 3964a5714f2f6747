"""The LM head as a module, so that DDP's and ZeRO-3's hooks see its weight being used."""

from __future__ import annotations

from typing import cast, overload

import torch
from torch import Tensor, nn

from tgpo_ray.kernels.chunks import chunked_logprobs
from tgpo_ray.kernels.fused import fused_token_loss
from tgpo_ray.kernels.rows import LossOutput, TokenLoss, TokenRows


class FusedHead(nn.Module):
    """Drop-in for `model.lm_head` that owns the same Parameters (tied embeddings stay tied) under the same names.

    head(hidden, rows, loss) -> LossOutput; head(hidden, targets=ids) -> (logprobs, entropy | None), no gradient;
    head(hidden) -> plain logits, for `generate` and tests: training never takes that door.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None):
        super().__init__()
        self.weight = weight  # (V, D)
        self.register_parameter("bias", bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> FusedHead:
        return cls(cast(nn.Parameter, linear.weight), cast(nn.Parameter | None, linear.bias))

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    @overload
    def forward(self, hidden: Tensor, rows: TokenRows, loss: TokenLoss, *, temperature: float = 1.0) -> LossOutput: ...
    @overload
    def forward(
        self, hidden: Tensor, *, targets: Tensor, temperature: float = 1.0, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]: ...
    @overload
    def forward(self, hidden: Tensor, *, temperature: float = 1.0) -> Tensor: ...
    def forward(self, hidden, rows=None, loss=None, *, temperature=1.0, targets=None, with_entropy=False):
        if (rows is None) != (loss is None) or (rows is not None and targets is not None):
            raise ValueError("FusedHead takes rows with loss, or targets, or neither: see its docstring")
        if rows is not None and loss is not None:
            return fused_token_loss(hidden, self.weight, rows, loss, temperature=temperature, bias=self.bias)
        if targets is not None:
            return chunked_logprobs(
                hidden, self.weight, targets, temperature=temperature, bias=self.bias, with_entropy=with_entropy
            )
        return nn.functional.linear(hidden, self.weight, self.bias) / temperature


def token_loss_pass(
    head: FusedHead, hidden: Tensor, rows: TokenRows, loss: TokenLoss, temperature: float = 1.0
) -> LossOutput:
    """`head(hidden, rows, loss)`, with the pass before it that a sequence-level loss needs.

    Such a loss (`needs_sequence`) first gets all log-probabilities without gradient, in `prepare`. `LossOutput.rows`
    are the prepared rows: hand those to `loss.metrics`.
    """
    if loss.needs_sequence:
        with torch.no_grad():
            logprobs, _ = head(hidden.detach(), targets=rows.targets, temperature=temperature)
            rows = loss.prepare(logprobs, rows)
    return head(hidden, rows, loss, temperature=temperature)
