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

METHODS = {
    "dr_grpo": "DrGRPO",
    "gkd": "GKD",
    "grpo": "GRPO",
    "kdrl": "KDRL",
    "luffy": "LUFFY",
    "minillm": "MiniLLM",
    "op_distill": "OPDistill",
    "prime": "PRIME",
    "rkl": "RKL",
    "sft": "SFT",
    "tgpo": "TGPO",
    "tgpor": "TGPOR",
    "tropd": "TrOPD",
}
"""Module -> the method in it. Its configuration is called after it: TGPO, TGPOConfig."""

CONFIG_CLASSES = {name: f"{__name__}.{module}:{name}Config" for module, name in METHODS.items()}
"""What a YAML file's `algorithm` may be -> the import path of that method's configuration."""

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={module: [name, f"{name}Config"] for module, name in METHODS.items()}
)
