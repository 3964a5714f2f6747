"""The policy loss with a separate advantage for each token, which was computed from the whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tgpo_ray.kernels import TokenRows

from .token_losses import PolicyLoss

SCORER = "advantage"


@dataclass(frozen=True)
class TokenAdvantageLoss(PolicyLoss):
    """`PolicyLoss` whose advantages (N,) are `Guidance.values` of the scorer "advantage"."""

    fields: ClassVar[tuple[str, ...]] = (f"{SCORER}.values",)

    def advantages(self, logprobs: Tensor, rows: TokenRows) -> Tensor:
        values = torch.nan_to_num(rows.extra[f"{SCORER}.values"]).to(logprobs.dtype)  # (N,), 0 where none was given
        return super().advantages(logprobs, rows.replace(advantages=values))
