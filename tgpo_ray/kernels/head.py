"""The LM head as a module, so that DDP's and ZeRO-3's hooks see its weight being used."""

from __future__ import annotations

from typing import NamedTuple, cast, overload

import torch
from torch import Tensor, nn

from tgpo_ray.kernels.chunks import chunked_logprobs
from tgpo_ray.kernels.full_vocabulary import DivergenceOutput, fused_divergence
from tgpo_ray.kernels.fused import fused_token_loss
from tgpo_ray.kernels.rows import Divergence, LossOutput, TokenLoss, TokenRows


class TeacherRows(NamedTuple):
    """What `fused_divergence` needs of a teacher."""

    hidden: Tensor  # (N, D_T)
    weight: Tensor  # (U, D_T) the teacher's head on the ids that both models share
    row_weights: Tensor  # (N,)
    beta: float

    @classmethod
    def of(cls, rows: TokenRows, divergence: Divergence, weight: Tensor) -> TeacherRows:
        """Those of a micro-batch; rows that the teacher did not answer have weight 0."""
        hidden = rows.extra[f"{divergence.scorer}.hidden"]
        if hidden.ndim != 2:  # no row of the micro-batch was answered
            hidden = hidden.new_full((len(rows), weight.shape[1]), torch.nan)
        answered = torch.isfinite(hidden).all(-1).to(rows.mask.dtype)
        shared = weight[: divergence.num_shared]
        return cls(
            torch.nan_to_num(hidden).to(shared.dtype), shared, divergence.weight * rows.mask * answered, divergence.beta
        )


class FusedHead(nn.Module):
    """Drop-in for `model.lm_head` that owns the same Parameters (tied embeddings stay tied) under the same names.

    head(hidden, rows, loss) -> LossOutput; head(hidden, targets=ids) -> (logprobs, entropy | None), no gradient;
    head(hidden, against=teacher) -> DivergenceOutput; head(hidden) -> plain logits, for `generate` and tests: training
    never takes that door.
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
    def forward(self, hidden: Tensor, *, against: TeacherRows, temperature: float = 1.0) -> DivergenceOutput: ...
    @overload
    def forward(self, hidden: Tensor, *, temperature: float = 1.0) -> Tensor: ...
    def forward(self, hidden, rows=None, loss=None, *, temperature=1.0, targets=None, with_entropy=False, against=None):
        if (rows is None) != (loss is None) or (rows is not None and targets is not None):
            raise ValueError("FusedHead takes rows with loss, or targets, or neither: see its docstring")
        if rows is not None and loss is not None:
            return fused_token_loss(hidden, self.weight, rows, loss, temperature=temperature, bias=self.bias)
        if against is not None:
            return fused_divergence(hidden, self.weight, *against, temperature=temperature)
        if targets is not None:
            return chunked_logprobs(
                hidden, self.weight, targets, temperature=temperature, bias=self.bias, with_entropy=with_entropy
            )
        return nn.functional.linear(hidden, self.weight, self.bias) / temperature


def token_loss_pass(
    head: FusedHead,
    hidden: Tensor,
    rows: TokenRows,
    loss: TokenLoss,
    temperature: float = 1.0,
    teacher_weight: Tensor | None = None,
) -> LossOutput:
    """`head(hidden, rows, loss)`, with the pass before it that a sequence-level loss needs, and a divergence after it.

    Such a loss (`needs_sequence`) first gets all log-probabilities without gradient, in `prepare`. `LossOutput.rows`
    are the prepared rows: hand those to `loss.metrics`.

    Args:
        teacher_weight: (V_T, D_T) head of the teacher, where the loss has a `divergence`.
    """
    if loss.needs_sequence:
        with torch.no_grad():
            logprobs, _ = head(hidden.detach(), targets=rows.targets, temperature=temperature)
            rows = loss.prepare(logprobs, rows)
    output = head(hidden, rows, loss, temperature=temperature)
    if loss.divergence is None or teacher_weight is None:
        return output
    found = head(hidden, against=TeacherRows.of(rows, loss.divergence, teacher_weight), temperature=temperature)
    return output._replace(loss=output.loss + found.loss, rows=output.rows.with_extra(divergence=found.values))
