"""Algorithms and their configurations, imported when first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dr_grpo import DrGRPO, DrGRPOConfig
    from .gkd import GKD, GKDConfig
    from .grpo import GRPO, GRPOConfig
    from .kdrl import KDRL, KDRLConfig
    from .luffy import LUFFY, LUFFYConfig
    from .minillm import MiniLLM, MiniLLMConfig
    from .op_distill import OPDistill, OPDistillConfig
    from .prime import PRIME, PRIMEConfig
    from .rkl import RKL, RKLConfig
    from .sft import SFT, SFTConfig
    from .tgpo import TGPO, TGPOConfig
    from .tgpor import TGPOR, TGPORConfig
    from .tropd import TrOPD, TrOPDConfig

_MODULES = {
    "DrGRPO": ".dr_grpo",
    "DrGRPOConfig": ".dr_grpo",
    "GRPO": ".grpo",
    "GRPOConfig": ".grpo",
    "GKD": ".gkd",
    "GKDConfig": ".gkd",
    "KDRL": ".kdrl",
    "KDRLConfig": ".kdrl",
    "LUFFY": ".luffy",
    "LUFFYConfig": ".luffy",
    "MiniLLM": ".minillm",
    "MiniLLMConfig": ".minillm",
    "OPDistill": ".op_distill",
    "OPDistillConfig": ".op_distill",
    "PRIME": ".prime",
    "PRIMEConfig": ".prime",
    "RKL": ".rkl",
    "RKLConfig": ".rkl",
    "SFT": ".sft",
    "SFTConfig": ".sft",
    "TGPO": ".tgpo",
    "TGPOConfig": ".tgpo",
    "TGPOR": ".tgpor",
    "TGPORConfig": ".tgpor",
    "TrOPD": ".tropd",
    "TrOPDConfig": ".tropd",
}

__all__ = [
    "GKD",
    "GRPO",
    "KDRL",
    "LUFFY",
    "PRIME",
    "RKL",
    "SFT",
    "TGPO",
    "TGPOR",
    "DrGRPO",
    "DrGRPOConfig",
    "GKDConfig",
    "GRPOConfig",
    "KDRLConfig",
    "LUFFYConfig",
    "MiniLLM",
    "MiniLLMConfig",
    "OPDistill",
    "OPDistillConfig",
    "PRIMEConfig",
    "RKLConfig",
    "SFTConfig",
    "TGPOConfig",
    "TGPORConfig",
    "TrOPD",
    "TrOPDConfig",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
