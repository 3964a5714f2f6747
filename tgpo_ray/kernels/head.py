"""The LM head as a module, so that the hooks of DDP and ZeRO-3 see when its weight is used."""

from __future__ import annotations

from typing import NamedTuple, cast, overload

import torch
from torch import Tensor, nn

from tgpo_ray.kernels.chunks import chunked_logprobs
from tgpo_ray.kernels.full_vocabulary import DivergenceOutput, fused_divergence
from tgpo_ray.kernels.fused import fused_token_loss
from tgpo_ray.kernels.rows import Divergence, LossOutput, TokenLoss, TokenRows
from tgpo_ray.kernels.transform import PLAIN, HeadWeights, LogitTransform


class TeacherRows(NamedTuple):
    """The arguments of `fused_divergence` that come from a teacher."""

    hidden: Tensor  # (N, D_T)
    head: HeadWeights  # (U, D_T) the teacher's head, for the U ids that both models share
    row_weights: Tensor  # (N,)
    beta: float

    @classmethod
    def of(cls, rows: TokenRows, divergence: Divergence, head: HeadWeights) -> TeacherRows:
        """Returns the rows of a micro-batch. Rows that the teacher did not answer have weight 0."""
        hidden = rows.extra[f"{divergence.scorer}.hidden"]
        if hidden.ndim != 2:  # no row of the micro-batch was answered
            hidden = hidden.new_full((len(rows), head.weight.shape[1]), torch.nan)  # (N, D_T)
        answered = torch.isfinite(hidden).all(-1).to(rows.mask.dtype)  # (N,)
        states = torch.nan_to_num(hidden).to(head.weight.dtype)
        weights = divergence.weight * rows.mask * answered
        return cls(states, head.first(divergence.num_shared), weights, divergence.beta)


class FusedHead(nn.Module):
    """Replacement of `model.lm_head` with the same Parameters under the same names. Tied embeddings stay tied.

    The arguments choose the result:

        head(hidden, rows, loss)         LossOutput
        head(hidden, targets=ids)        (logprobs, entropy | None), without gradient
        head(hidden, against=teacher)    DivergenceOutput
        head(hidden)                     logits, for `generate` and tests; training never forms them
    """

    bias: nn.Parameter | None

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter | None = None, transform: LogitTransform = PLAIN
    ) -> None:
        super().__init__()
        self.weight = weight  # (V, D)
        self.transform = transform  # what the model does to these logits
        self.register_parameter("bias", bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear, transform: LogitTransform = PLAIN) -> FusedHead:
        return cls(cast(nn.Parameter, linear.weight), cast(nn.Parameter | None, linear.bias), transform)

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
            return fused_token_loss(
                hidden, self.weight, rows, loss, temperature=temperature, bias=self.bias, transform=self.transform
            )
        if against is not None:
            own = HeadWeights(self.weight, self.bias, self.transform)
            return fused_divergence(hidden, own, *against, temperature=temperature)
        if targets is not None:
            return chunked_logprobs(
                hidden,
                self.weight,
                targets,
                temperature=temperature,
                bias=self.bias,
                transform=self.transform,
                with_entropy=with_entropy,
            )
        return self.transform(nn.functional.linear(hidden, self.weight, self.bias)) / temperature


def token_loss_pass(
    head: FusedHead,
    hidden: Tensor,
    rows: TokenRows,
    loss: TokenLoss,
    temperature: float = 1.0,
    teacher_head: HeadWeights | None = None,
) -> LossOutput:
    """Returns `head(hidden, rows, loss)`, after `prepare` for a sequence-level loss, plus the loss's divergence.

    A loss with `needs_sequence` first gets all log-probabilities without gradient, in `prepare`. `LossOutput.rows` are
    the prepared rows, which `loss.metrics` takes.

    Args:
        teacher_head: head (V_T, D_T) of the teacher, if the loss has a `divergence`.
    """
    if loss.needs_sequence:
        with torch.no_grad():
            logprobs, _ = head(hidden.detach(), targets=rows.targets, temperature=temperature)
            rows = loss.prepare(logprobs, rows)
    output = head(hidden, rows, loss, temperature=temperature)
    if loss.divergence is None or teacher_head is None:
        return output
    teacher = TeacherRows.of(rows, loss.divergence, teacher_head)
    divergence = head(hidden, against=teacher, temperature=temperature)
    rows = output.rows.with_extra(divergence=divergence.values)
    return output._replace(loss=output.loss + divergence.loss, rows=rows)
