"""The loss of PRIME's process-reward model, whose logit of a right answer is the sequence's summed log-ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tgpo_ray.kernels import TokenLoss, TokenRows

from .token_losses import REFERENCE, Metrics


@dataclass(frozen=True)
class ProcessRewardLoss(TokenLoss):
    """Binary cross-entropy of sigma(beta sum_t q_t) with the verdict, q_t = log pi_PRM(y_t) - log pi_ref(y_t).

        L_i = -[acc_i log s_i + (1 - acc_i) log(1 - s_i)],   s_i = sigma(beta sum_t m_t q_t)
        dL_i/dlogprob_t = beta (s_i - acc_i) m_t

    PRIME (2502.01456), its cross-entropy on outcomes. The step divides by the number of responses. Each row has 1/|y_i|
    of the value and its own part of the gradient. Responses that the reference did not answer are left out.
    """

    beta: float = 0.05

    fields: ClassVar[tuple[str, ...]] = (REFERENCE, "episode.correct")
    needs_sequence: ClassVar[bool] = True

    def prepare(self, logprobs: Tensor, rows: TokenRows) -> TokenRows:
        """The rows with `logit` (N,), beta times the sequence's sum, and `known` (N,), 0.0 where it has gaps."""
        reference = rows.extra[REFERENCE].to(logprobs.dtype)
        answered = torch.isfinite(reference).to(logprobs.dtype)
        ratios = rows.mask * (logprobs[:, 0] - torch.nan_to_num(reference))
        sums = torch.zeros_like(ratios).index_add(0, rows.sequence, ratios)[rows.sequence]
        gaps = torch.zeros_like(ratios).index_add(0, rows.sequence, rows.mask * (1.0 - answered))[rows.sequence]
        return rows.with_extra(logit=self.beta * sums, known=(gaps == 0).to(logprobs.dtype))

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        sampled, correct = logprobs[:, 0], rows.extra["episode.correct"].to(logprobs.dtype)
        slope = self.beta * (torch.sigmoid(rows.extra["logit"]) - correct)
        value = self._cross_entropy(rows) / rows.lengths.clamp(min=1.0)
        # `sampled - sampled.detach()` is 0 in value and carries the gradient.
        return rows.mask * rows.extra["known"] * (value + slope * (sampled - sampled.detach()))

    @staticmethod
    def _cross_entropy(rows: TokenRows) -> Tensor:
        logit = rows.extra["logit"]
        return torch.nn.functional.binary_cross_entropy_with_logits(
            logit, rows.extra["episode.correct"].to(logit.dtype), reduction="none"
        )

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Metrics:
        share = rows.mask * rows.extra["known"] / rows.lengths.clamp(min=1.0)  # sums to 1 over a response
        right = ((rows.extra["logit"] > 0) == (rows.extra["episode.correct"] > 0.5)).to(share.dtype)
        return {
            "process_reward/loss": ((share * self._cross_entropy(rows)).sum(), share.sum()),
            "process_reward/accuracy": ((share * right).sum(), share.sum()),
        }
