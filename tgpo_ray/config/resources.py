"""The CPUs and GPUs of each kind of actor, and the check that the cluster has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tgpo_ray.config.algorithm_config import AlgorithmConfig
from tgpo_ray.config.errors import ConfigError
from tgpo_ray.config.file_rules import kv_cache_holds_one_sequence
from tgpo_ray.config.run_sections import ReferenceConfig
from tgpo_ray.config.teacher_sections import TeacherConfig

ENV_RUNNER = "env runner"


@dataclass(frozen=True)
class ActorDemand:
    """`count` actors of one kind, each with `cpus` and `gpus`. `key` is the section that sets them."""

    kind: str
    key: str
    count: int
    cpus: float
    gpus: float


def teacher_kind(name: str) -> str:
    """Returns what the actors of the teacher called `name` are called as a kind."""
    return f"teacher {name}"


def resource_plan(config: AlgorithmConfig, *, gpus: bool) -> list[ActorDemand]:
    """Returns a row for each kind of actor that reserves resources, on a cluster with GPUs or without."""
    config = config.resolved(gpus=gpus)
    learners, runners = config.learners, config.env_runners
    rows = [
        ActorDemand(
            kind, "learners", learners.num_learners, learners.num_cpus_per_learner, learners.num_gpus_per_learner or 0.0
        )
        for kind in config.learner_groups
    ]
    if config.needs_envs or config.evaluation.envs:
        cpus, gpus_each = runners.num_cpus_per_env_runner, runners.num_gpus_per_env_runner or 0.0
        rows.append(ActorDemand(ENV_RUNNER, "env_runners", runners.num_env_runners, cpus, gpus_each))
    for name, teacher in config.teacher_pools().items():
        rows.append(_scorers(teacher_kind(name), f"teachers.{name}", teacher))
    if config.starts_reference:
        rows.append(_scorers("reference", "reference", config.reference))
    return rows


def _scorers(kind: str, key: str, section: TeacherConfig | ReferenceConfig) -> ActorDemand:
    return ActorDemand(
        kind, key, section.num_replicas, section.num_cpus_per_replica, section.num_gpus_per_replica or 0.0
    )


def check_resources(
    config: AlgorithmConfig,
    cluster: Mapping[str, float],
    nodes: Sequence[Mapping[str, float]] = (),
    *,
    only: Sequence[str] | None = None,
) -> None:
    """Raises ConfigError if `cluster` (`ray.cluster_resources()`) cannot hold all actors, or no node can hold one.

    Also where a KV cache of `auto` would not hold one sequence, or the GPUs of a run do not fit `weight_sync.backend`.

    Args:
        only: the kinds of actors that start, one twice where two groups of it do; None: those of a run.
    """
    has_gpus = cluster.get("GPU", 0.0) > 0
    rows = resource_plan(config, gpus=has_gpus)
    resolved = config.resolved(gpus=has_gpus)
    # after the sections' rules, because what `auto` stands for depends on the cluster
    problems = [*kv_cache_holds_one_sequence(resolved)]
    if only is None:
        problems += resolved.weight_sync.rules(resolved)
    else:
        by_kind = {row.kind: row for row in rows}
        rows = [by_kind[kind] for kind in only]
    for kind, amounts in (("CPU", [row.cpus for row in rows]), ("GPU", [row.gpus for row in rows])):
        needed = sum(row.count * amount for row, amount in zip(rows, amounts, strict=True))
        available = float(cluster.get(kind, 0.0))
        if needed > available + 1e-6:  # sums of fractions are not exact
            problems.append(_shortage(kind, needed, available, list(zip(rows, amounts, strict=True))))
        # An actor does not span nodes.
        largest = max((float(node.get(kind, 0.0)) for node in nodes), default=available)
        problems += [
            f"resources: {row.key} needs {amount:g} {kind}s on one node, the largest node has {largest:g}: lower "
            f"num_{kind.lower()}s_per_*" + (" and tensor_parallel_size" if kind == "GPU" else "")
            for row, amount in zip(rows, amounts, strict=True)
            if row.count and largest + 1e-6 < amount <= available
        ]
    if has_gpus and not problems:
        problems += packing_problems(rows, [int(node.get("GPU", 0.0)) for node in nodes or [cluster]])
    if problems:
        raise ConfigError(problems)


def packing_problems(rows: Sequence[ActorDemand], cards: Sequence[int]) -> list[str]:
    """Returns why actors on parts of cards do not fit, in a list of at most one line.

    An actor's part is one of one card, so the parts of a card add up to 1 at most. The largest are placed first.

    Args:
        cards: the number of cards of each node.
    """
    free = [[1.0] * number for number in cards]
    for row in sorted(rows, key=lambda row: -row.gpus):
        for _ in range(row.count if row.gpus > 0 else 0):
            size, number = min(1.0, row.gpus), max(1, round(row.gpus))
            places = [(node, [i for i, left in enumerate(node) if left + 1e-6 >= size]) for node in free]
            node, fitting = next(((node, fit) for node, fit in places if len(fit) >= number), ([], []))
            if not fitting:
                parts = ", ".join(f"{it.key} {it.count} x {it.gpus:g}" for it in rows if it.gpus > 0)
                return [
                    f"resources: no card has {size:g} left for {row.key} ({parts} on {sum(cards)} cards): an actor's "
                    "part is one of one card, whose parts add up to 1 at most; change num_gpus_per_*"
                ]
            for index in sorted(fitting, key=lambda i: node[i])[:number]:
                node[index] -= size
    return []


def _shortage(kind: str, needed: float, available: float, demand: list[tuple[ActorDemand, float]]) -> str:
    parts = ", ".join(f"{row.key} {row.count} x {amount:g}" for row, amount in demand if amount > 0)
    fix = f"lower num_{kind.lower()}s_per_* (fractions are allowed) or the counts"
    if kind == "CPU":
        fix += ", or let a local cluster count more with ray.num_cpus"
    return f"resources: {needed:g} {kind}s needed ({parts}), the cluster has {available:g}: {fix}"
