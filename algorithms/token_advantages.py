"""The policy loss with an advantage of its own for each token, made from the whole batch beforehand."""

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
    """`PolicyLoss` whose advantages are (N,) numbers of the tokens, `Guidance.values` of the scorer "advantage"."""

    fields: ClassVar[tuple[str, ...]] = (f"{SCORER}.values",)

    def advantages(self, logprobs: Tensor, rows: TokenRows) -> Tensor:
        values = torch.nan_to_num(rows.extra[f"{SCORER}.values"]).to(logprobs.dtype)
        return super().advantages(logprobs, rows.replace(advantages=values))
