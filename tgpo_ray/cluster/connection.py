"""The connection to a Ray cluster: an existing cluster is joined, or else a local one is started."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray

if TYPE_CHECKING:
    from tgpo_ray.config import RayConfig


def connect(config: RayConfig) -> bool:
    """Returns whether the cluster was started here, in which case the caller must end it.

    The cluster is that of `config.address`, else that of RAY_ADDRESS (which `ray job submit` sets), else a local one.

    Raises:
        ConfigError: no cluster answers at the address.
    """
    if ray.is_initialized():
        return False
    # with state tracking Ray Train prints a second report of what the run prints itself
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
    address = config.address or os.environ.get("RAY_ADDRESS")
    with _own_sigterm():
        if address:
            _join(address, "ray.address" if config.address else "RAY_ADDRESS")
            return False
        ray.init(
            "local",  # without an address Ray would join a cluster that happens to run on this machine
            num_cpus=config.num_cpus,
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=False,  # the actors' own logs are in Ray's session folder
        )
    return True


def _join(address: str, source: str) -> None:
    from tgpo_ray.config import ConfigError

    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except ConnectionError as error:
        raise ConfigError(
            [f"{source}: no Ray cluster answers at {address!r}: start one with `ray start --head`, or drop the address"]
        ) from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """A context that restores the SIGTERM handler, which `ray.init` replaces by its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Python allows `signal.signal` in the main thread only
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def has_gpus() -> bool:
    """Returns whether any node of the cluster has a GPU."""
    return ray.cluster_resources().get("GPU", 0.0) > 0.0


def node_resources() -> list[dict[str, float]]:
    """Returns the resources of each living node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
