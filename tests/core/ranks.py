"""Functions that run in the ranks of a process group of their own, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import Any

TIMEOUT_S = 280.0


def in_ranks(function: Callable[..., Any], *arguments: object, num_ranks: int = 2) -> list[Any]:
    """Returns what the function returns in each rank. It is a module's own function, and ranks are new processes."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(num_ranks, mp_context=context) as pool:
        asked = [pool.submit(_as_rank, rank, num_ranks, folder, function, arguments) for rank in range(num_ranks)]
        return [one.result(timeout=TIMEOUT_S) for one in asked]


def _as_rank(rank: int, num_ranks: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks), "DS_ACCELERATOR": "cpu"}
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    method = f"file://{folder}/meeting"
    dist.init_process_group("gloo", method, timedelta(seconds=200), world_size=num_ranks, rank=rank)
    try:
        return function(*arguments)
    finally:
        dist.destroy_process_group()
