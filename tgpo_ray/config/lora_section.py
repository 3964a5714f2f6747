"""`model.lora`: adapters that train over a frozen model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from tgpo_ray.config.values import Positive, PositiveFloat, Strict
from tgpo_ray.models import LoraSpec

Targets = Annotated[list[str], Field(min_length=1)]


class LoraConfig(Strict):
    """`model.lora`: LoRA (arXiv:2106.09685) by peft. Weights W of the targets become W + alpha / rank B A.

    Only A and B train. So gradients and optimizer are as large as these.
    """

    rank: Positive = Field(default=16, description="Rows of A and columns of B.")
    alpha: PositiveFloat = Field(default=32.0, description="The product B A is multiplied by alpha / rank.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Dropout before A, in training on data; 0 where the policy samples."
    )
    target_modules: Targets | None = Field(
        default=None, description="Names or ends of names, as q_proj; null: every linear layer but the head."
    )

    @property
    def spec(self) -> LoraSpec:
        """The same values as learners and engines take them."""
        targets = None if self.target_modules is None else tuple(self.target_modules)
        return LoraSpec(self.rank, self.alpha, self.dropout, targets)

    @property
    def fact(self) -> str:
        """What `tgpo-ray plan` prints of it."""
        targets = ", ".join(self.target_modules) if self.target_modules else "every linear layer but the head"
        return f"rank {self.rank}, alpha {self.alpha:g}, on {targets}; the rest is frozen"

    def broken_rules(self, *, samples: bool) -> Iterator[str]:
        """Yields a line for each broken rule. `samples`: the policy samples what it trains on."""
        if samples and self.dropout > 0:
            yield (
                f"model.lora.dropout: must be 0 where the policy samples, got {self.dropout:g}: the engine samples "
                "without dropout, so the ratio of the policy that is trained to the one that sampled would not be 1"
            )
