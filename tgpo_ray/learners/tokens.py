"""What the layouts of a micro-batch share: the sequences that go in, the interface, and the copy to the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

Layout = Literal["padded", "packed", "shared_prompt"]


class TokenIds(NamedTuple):
    """One sequence."""

    prompt: np.ndarray  # (P,) int, at least one token
    response: np.ndarray  # (R,) int


class Tokens(Protocol):
    """The tokens of B sequences in a layout, with N response tokens in all."""

    @classmethod
    def of(cls, sequences: Sequence[TokenIds]) -> Self:
        """Returns the tokens on the CPU. Without sequences they are a dummy, so that the trunk can run."""
        ...

    def to(self, device: torch.device) -> Self: ...

    def states(self, trunk: Any) -> Tensor:
        """Returns (N, D) final hidden states, each at the position before its response token."""
        ...


class Movable:
    """A dataclass of tensors and plain numbers."""

    def to(self, device: torch.device) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # pyright: ignore[reportArgumentType]
        return type(self)(**{k: moved(v, device) if isinstance(v, Tensor) else v for k, v in values.items()})


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns the tensor on the device. The host does not wait for the copy to a GPU, which pinned memory allows."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def concatenated(parts: Sequence[np.ndarray]) -> Tensor:
    """(N,) int64 of all parts; empty without parts."""
    return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64))
