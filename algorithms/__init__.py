"""The algorithms and their configurations. Each is imported at its first use."""

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
"""Module -> the method in it. The name of its configuration ends in `Config`, as in TGPO and TGPOConfig."""

CONFIG_CLASSES = {name: f"{__name__}.{module}:{name}Config" for module, name in METHODS.items()}
"""Name that a YAML file may give as `algorithm` -> the import path of that method's configuration."""

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={module: [name, f"{name}Config"] for module, name in METHODS.items()}
)
