"""The connection to a Ray cluster: an existing cluster is joined, or else a local one is started."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray

if TYPE_CHECKING:
    from tgpo_ray.config import RayConfig

ANSWER_S = 5.0  # in which the head of a cluster takes a connection


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
    address, source = _address(config)
    with _own_sigterm():
        if address:
            _join(address, source)
            return False
        ray.init(
            "local",  # without an address Ray would join a cluster that happens to run on this machine
            num_cpus=config.num_cpus,
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=False,  # the actors' own logs are in Ray's session folder
        )
    return True


def _address(config: RayConfig) -> tuple[str | None, str]:
    """The address of the cluster, None for a local one, and the name of the key or variable that holds it."""
    return config.address or os.environ.get("RAY_ADDRESS") or None, "ray.address" if config.address else "RAY_ADDRESS"


def address_problem(config: RayConfig) -> str:
    """Returns why the cluster cannot be joined, or an empty text. Takes seconds; Ray's own retries take minutes."""
    address, source = _address(config)
    if address is None or address == "local" or ray.is_initialized():
        return ""
    return _unreachable(address, source)


def _unreachable(address: str, source: str) -> str:
    """Returns why nobody answers at an address, or an empty text. `source` is the key or variable that holds it."""
    if re.match(r"https?://", address):
        return (
            f"{source}: {address!r} is a dashboard, which `ray job submit` talks to; a run that joins the cluster by "
            "itself needs host:port of its head, as 10.0.0.1:6379"
        )
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", address)
    if not found:  # `auto` and names of other kinds: Ray looks where it has noted the cluster of this machine
        return ""
    try:
        socket.create_connection((found[1], int(found[2])), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        return f"{_no_answer(address, source)} ({type(error).__name__}: {error})"
    return ""


def _no_answer(address: str, source: str) -> str:
    return f"{source}: no Ray cluster answers at {address!r}: start one with `ray start --head`, or drop the address"


def _join(address: str, source: str) -> None:
    from tgpo_ray.config import ConfigError

    if problem := _unreachable(address, source):
        raise ConfigError([problem])
    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except ConnectionError as error:
        raise ConfigError([_no_answer(address, source)]) from error


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
