"""What a model does to the logits of its LM head: a factor, a soft cap, or nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogitTransform:
    """The logits of a model from those of its head, z = h W^T + b.

        v = scale z                              without a cap
        v = cap tanh(scale z / cap)              with one;   dv/dz = scale (1 - (v / cap)^2)

    Granite divides its logits (scale 1/8, for example), Cohere multiplies them, Gemma 2 caps them at 30. The scale is
    folded into the temperature, so it costs nothing. A cap costs a pass over the logits, and a buffer for the gradient.

    Raises:
        ValueError: a scale or a cap that is not above 0.
    """

    scale: float = 1.0
    cap: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("scale", self.scale), ("cap", 1.0 if self.cap is None else self.cap)):
            if not 0.0 < value < float("inf"):
                raise ValueError(f"{name} of the logits must be a number > 0, got {value}")

    def temperature(self, temperature: float) -> float:
        """Returns t of dv/dz / temperature = slope / t, where slope is 1 without a cap and else that of `cap_`."""
        return temperature / self.scale

    def divisor(self, temperature: float) -> float:
        """Returns what z is divided by: the result is v / temperature, and before `cap_` where there is a cap."""
        return self.temperature(temperature) if self.cap is None else self.cap / self.scale

    def cap_(self, logits: Tensor, temperature: float, slope: Tensor | None = None) -> Tensor:
        """Returns v / temperature (n, V) in place of z / divisor, and writes 1 - (v / cap)^2 into `slope`."""
        if self.cap is None:
            return logits
        logits.tanh_()
        if slope is not None:
            slope.fill_(1.0).addcmul_(logits, logits, value=-1.0)
        return logits.mul_(self.cap / temperature)

    def __call__(self, logits: Tensor) -> Tensor:
        """Returns v (..., V), a new tensor with gradient."""
        scaled = logits if self.scale == 1.0 else logits * self.scale
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap


PLAIN = LogitTransform()


@dataclass(frozen=True)
class HeadWeights:
    """An LM head: v = transform(h W^T + b). No tuple, because DeepSpeed takes tuples of arguments apart."""

    weight: Tensor  # (V, D)
    bias: Tensor | None = None  # (V,)
    transform: LogitTransform = PLAIN

    def first(self, size: int) -> HeadWeights:
        """Returns the rows of the first `size` ids as views."""
        return HeadWeights(self.weight[:size], None if self.bias is None else self.bias[:size], self.transform)

    def to(self, device: torch.device) -> HeadWeights:
        """Returns the head on another device."""
        return HeadWeights(self.weight.to(device), None if self.bias is None else self.bias.to(device), self.transform)
