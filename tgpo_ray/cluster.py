"""The Ray cluster: join the one that is there, or start a local one; end only what was started here."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import ray

if TYPE_CHECKING:
    from tgpo_ray.config import RayConfig


def connect(config: RayConfig) -> bool:
    """Join `config.address`, or RAY_ADDRESS (which `ray job submit` sets), or start a local cluster.

    Returns: whether the cluster was started here, and so must be ended here.
    """
    if ray.is_initialized():
        return False
    # Ray Train repeats what the run prints itself
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
        return False
    ray.init(
        num_cpus=config.num_cpus,
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=False,  # the actors' own logs lie in Ray's session folder
    )
    return True


def has_gpus() -> bool:
    """Whether any node of the cluster offers a GPU."""
    return ray.cluster_resources().get("GPU", 0.0) > 0.0
