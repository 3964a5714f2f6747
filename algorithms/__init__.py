"""Algorithms and their configurations, imported when first asked for."""

from typing import TYPE_CHECKING

import lazy_loader

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

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "dr_grpo": ["DrGRPO", "DrGRPOConfig"],
        "gkd": ["GKD", "GKDConfig"],
        "grpo": ["GRPO", "GRPOConfig"],
        "kdrl": ["KDRL", "KDRLConfig"],
        "luffy": ["LUFFY", "LUFFYConfig"],
        "minillm": ["MiniLLM", "MiniLLMConfig"],
        "op_distill": ["OPDistill", "OPDistillConfig"],
        "prime": ["PRIME", "PRIMEConfig"],
        "rkl": ["RKL", "RKLConfig"],
        "sft": ["SFT", "SFTConfig"],
        "tgpo": ["TGPO", "TGPOConfig"],
        "tgpor": ["TGPOR", "TGPORConfig"],
        "tropd": ["TrOPD", "TrOPDConfig"],
    },
)
