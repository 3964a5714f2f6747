"""What can be known of a run's surroundings before any actor starts: cluster, storage, logins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tgpo_ray.cluster import absolute, address_problem, free_bytes, nodes_without, parent, write_problem
from tgpo_ray.config import ConfigError, format_bytes
from tgpo_ray.costs import checkpoint_bytes
from tgpo_ray.reporting import writer_problems

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig


def check_start(config: AlgorithmConfig) -> None:
    """Raise an error for a cluster that does not answer, a storage that cannot hold the run, and a missing login.

    Raises:
        ConfigError: a line for each, with its fix.
    """
    problems = [*filter(None, [address_problem(config.ray)]), *storage_problems(config)]
    problems += [f"reporting.{problem}" for problem in writer_problems(config.reporting)]
    if problems:
        raise ConfigError(problems)


def storage_path(config: AlgorithmConfig) -> str:
    """Returns the folder or URI of all runs."""
    path = config.resolved(gpus=False).checkpointing.storage_path
    assert path is not None  # `resolved` has filled it in
    return absolute(path)


def storage_problems(config: AlgorithmConfig) -> Iterator[str]:
    """Yields why checkpoints cannot be written where `checkpointing.storage_path` says."""
    path = storage_path(config)
    problem = write_problem(path)
    if problem:
        yield f"checkpointing.storage_path: {path} cannot be written: {problem}; name a folder or URI that can be"
        return
    free, size = free_bytes(path), checkpoint_bytes(config)
    if free is not None and size is not None and free < size:
        yield (
            f"checkpointing.storage_path: {path} has {format_bytes(free)} free, and one checkpoint takes about "
            f"{format_bytes(size)}: make room, or name another folder or a URI"
        )


def storage_facts(config: AlgorithmConfig) -> dict[str, str]:
    """Returns the lines of `tgpo-ray plan` about the run's folder and its checkpoints."""
    section, path = config.checkpointing, storage_path(config)
    name = config.resolved(gpus=False).name
    facts = {"results": f"{path}/{name} (-2, -3, ... where earlier runs of the name are)"}
    times = [f"every {section.every} iterations"] * (section.every is not None)
    times += [f"every {section.every_minutes:g} minutes"] * (section.every_minutes is not None)
    best = bool(section.keep_best and config.evaluation.envs)
    kept = f"the newest {section.keep}" + (f" and the best by {section.keep_best}" if best else "")
    facts["checkpoints"] = f"{', '.join([*times, 'at the end'])}; {kept} stay"
    size, free = checkpoint_bytes(config), free_bytes(path)
    if size is not None:
        most = (section.keep + best + 1) * size  # the oldest goes after the newest is there
        text = f"about {format_bytes(size)} each, {format_bytes(most)} at most"
        if free is not None:
            text += f", {format_bytes(free)} free" + ("" if free >= most else ": WARNING: less than that")
        facts["storage"] = text
    return facts


def refuse_unshared(config: AlgorithmConfig, run_folder: str) -> None:
    """Raise an error where a node that may take a learner does not see the run's folder. Ray must be connected.

    Raises:
        ConfigError: the message names the nodes.
    """
    learners = config.learners
    blind = nodes_without(
        parent(run_folder), num_cpus=learners.num_cpus_per_learner, num_gpus=learners.num_gpus_per_learner or 0.0
    )
    if blind:
        raise ConfigError(
            [
                f"checkpointing.storage_path: {parent(run_folder)} is on one node's disk, and a learner may run on "
                f"{', '.join(blind)}, where it is not: write a folder that all nodes mount, as /mnt/nfs/runs, or a "
                "URI, as s3://bucket/runs"
            ]
        )
