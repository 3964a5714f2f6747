"""Algorithms and their configurations, imported when first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .grpo import GRPO, GRPOConfig
    from .sft import SFT, SFTConfig
    from .tgpo import TGPO, TGPOConfig

_MODULES = {
    "GRPO": ".grpo",
    "GRPOConfig": ".grpo",
    "SFT": ".sft",
    "SFTConfig": ".sft",
    "TGPO": ".tgpo",
    "TGPOConfig": ".tgpo",
}

__all__ = ["GRPO", "SFT", "TGPO", "GRPOConfig", "SFTConfig", "TGPOConfig"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
