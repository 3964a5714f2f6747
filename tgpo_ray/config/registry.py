"""Algorithms by name, as import paths: this package imports an algorithm only when one is asked for."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from tgpo_ray.config.errors import ConfigError
from tgpo_ray.config.run_config import RunConfig

ALGORITHMS = {
    "DrGRPO": "tgpo_ray.algorithms.dr_grpo:DrGRPOConfig",
    "GRPO": "tgpo_ray.algorithms.grpo:GRPOConfig",
    "GKD": "tgpo_ray.algorithms.gkd:GKDConfig",
    "KDRL": "tgpo_ray.algorithms.kdrl:KDRLConfig",
    "LUFFY": "tgpo_ray.algorithms.luffy:LUFFYConfig",
    "MiniLLM": "tgpo_ray.algorithms.minillm:MiniLLMConfig",
    "OPDistill": "tgpo_ray.algorithms.op_distill:OPDistillConfig",
    "PRIME": "tgpo_ray.algorithms.prime:PRIMEConfig",
    "RKL": "tgpo_ray.algorithms.rkl:RKLConfig",
    "SFT": "tgpo_ray.algorithms.sft:SFTConfig",
    "TGPO": "tgpo_ray.algorithms.tgpo:TGPOConfig",
    "TGPOR": "tgpo_ray.algorithms.tgpor:TGPORConfig",
    "TrOPD": "tgpo_ray.algorithms.tropd:TrOPDConfig",
}


def import_object(path: str) -> Any:
    """Returns the object at `module:Name`; ImportError or AttributeError where there is none."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def resolve_algorithm(algorithm: Any) -> type[RunConfig]:
    """Returns the config class of an algorithm: a name of `ALGORITHMS`, `module:MyConfig` or `module:MyMethod`.

    A class other than a config must say `config_class = MyConfig`. ConfigError names the nearest known algorithm.
    """
    if not isinstance(algorithm, str):
        raise ConfigError([f"algorithm: expected a name or an import path, got {algorithm!r}"])
    path = ALGORITHMS.get(algorithm, algorithm)
    if ":" not in path:
        raise ConfigError([_unknown(algorithm)])
    try:
        found = import_object(path)
    except ModuleNotFoundError as error:
        raise ConfigError([f"algorithm: cannot import {path!r}: no module named {error.name!r}"]) from error
    except AttributeError as error:
        raise ConfigError([f"algorithm: cannot import {path!r}: {error}"]) from error
    return _config_class(found, path)


def _config_class(found: Any, path: str) -> type[RunConfig]:
    found = getattr(found, "config_class", found)
    if not (isinstance(found, type) and issubclass(found, RunConfig)):
        raise ConfigError([f"algorithm: {path!r} is neither an AlgorithmConfig nor a class whose config_class is one"])
    return found


def _unknown(algorithm: str) -> str:
    by_lower = {name.lower(): name for name in ALGORITHMS}
    near = difflib.get_close_matches(algorithm.lower(), by_lower, n=1, cutoff=0.5)
    hint = f"; did you mean {by_lower[near[0]]!r}?" if near else "."
    known = ", ".join(sorted(ALGORITHMS))
    return f"algorithm: unknown {algorithm!r}{hint} Known: {known}, or an import path such as my_pkg.mod:MyConfig"
