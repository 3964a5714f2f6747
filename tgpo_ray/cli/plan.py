"""The output of `tgpo-ray plan`: the resolved configuration, the CPUs and GPUs of each actor, the size of a step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import StringIO
from typing import Any, Literal

from rich import box
from rich.console import Console, Group
from rich.syntax import Syntax
from rich.table import Table

from tgpo_ray.config import AlgorithmConfig, dump_yaml, format_bytes, resource_plan
from tgpo_ray.costs import facts_of
from tgpo_ray.models import kv_bytes

LEAST_SHARE_HELD = 1 / 4  # of max_num_seqs; below it a KV cache leaves most of an engine's places empty


def local_cluster(config: AlgorithmConfig) -> dict[str, float]:
    """Returns the CPUs that a local cluster of `config` would count: `ray.num_cpus`, else those of this machine."""
    return {"CPU": float(config.ray.num_cpus or os.cpu_count() or 1)}


def render_plan(config: AlgorithmConfig, cluster: Mapping[str, float] | None = None) -> Group:
    """Returns the plan as rich renderables. `cluster`: `ray.cluster_resources()`; default: this machine's CPUs."""
    cluster = cluster or local_cluster(config)
    gpus = cluster.get("GPU", 0.0) > 0
    resolved = Syntax(dump_yaml(config.resolved(gpus=gpus).to_dict()), "yaml", background_color="default")
    tables = (resources_table(config, cluster), "", step_table(config), "", kv_cache_table(config, gpus=gpus))
    return Group(resolved, "", *tables)


def plan_text(config: AlgorithmConfig, cluster: Mapping[str, float] | None = None, *, width: int = 120) -> str:
    """Returns the plan as plain text."""
    page = StringIO()
    Console(file=page, width=width, color_system=None).print(render_plan(config, cluster))
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def resources_table(config: AlgorithmConfig, cluster: Mapping[str, float]) -> Table:
    """Returns the table of the CPUs and GPUs of each kind of actor, and of the cluster."""
    rows = resource_plan(config, gpus=cluster.get("GPU", 0.0) > 0)
    table = Table(title="Resources", title_justify="left", box=box.SIMPLE_HEAD, show_footer=True)
    cpus, gpus = sum(row.count * row.cpus for row in rows), sum(row.count * row.gpus for row in rows)
    table.add_column("who", footer="needed")
    table.add_column("actors", justify="right", footer=str(sum(row.count for row in rows)))
    table.add_column("CPUs each", justify="right")
    table.add_column("CPUs", justify="right", footer=f"{cpus:g} of {cluster.get('CPU', 0.0):g}")
    table.add_column("GPUs each", justify="right")
    table.add_column("GPUs", justify="right", footer=f"{gpus:g} of {cluster.get('GPU', 0.0):g}")
    for row in rows:
        amounts = (row.cpus, row.count * row.cpus, row.gpus, row.count * row.gpus)
        table.add_row(row.kind, str(row.count), *(f"{amount:g}" for amount in amounts))
    return table


def step_table(config: AlgorithmConfig) -> Table:
    """Returns the size of an iteration, the denominators of the loss, and the last step of the teacher."""
    return facts_table("One iteration", config.facts())


def facts_table(title: str, facts: Mapping[str, str]) -> Table:
    """Returns a table of texts by name."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column("what")
    table.add_column("value", overflow="fold")
    for what, value in facts.items():
        table.add_row(what, value)
    return table


def kv_cache_table(config: AlgorithmConfig, *, gpus: bool) -> Table:
    """Returns how many sequences of full length each engine's KV cache holds, and a warning where they are few."""
    config = config.resolved(gpus=gpus)
    runners, model = config.env_runners, config.model
    engines: list[tuple[str, Any, Any]] = []
    if config.needs_envs or config.evaluation.envs:
        engines.append(("env runner", runners, model))
    engines += [(f"teacher {name}", it, it) for name, it in config.teacher_pools().items() if it.backend == "vllm"]
    if config.uses_reference and config.reference.backend == "vllm":
        path = config.reference.path or model.path
        engines.append(("reference", config.reference, model.model_copy(update={"path": path})))
    table = Table(title="KV cache of an engine", title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column("who")
    table.add_column("holds")
    for who, section, policy in engines:
        each = kv_bytes(facts_of(policy.path, policy.hf_overrides), policy.dtype, config.longest_episode())
        table.add_row(who, held_text(section.kv_cache_memory, each, config.longest_episode(), section.max_num_seqs))
    return table


def held_text(memory: int | Literal["auto"], each: int | None, tokens: int, max_num_seqs: int) -> str:
    """Returns what a KV cache holds, as text.

    Args:
        each: bytes of a sequence of `tokens` tokens; None: not known.
    """
    if memory == "auto":
        size = f" of {format_bytes(each)} a sequence of {tokens} tokens" if each else ""
        return f"auto: what is left of its share of the card{size}; --cluster says how many sequences"
    if not each:
        return f"{format_bytes(memory)}; how much a sequence takes is not known: the model's config.json is not here"
    return f"{format_bytes(memory)} = {counted_text(int(memory // each), tokens, max_num_seqs)}"


def counted_text(held: int, tokens: int, max_num_seqs: int) -> str:
    """Returns the number of full-length sequences that a KV cache holds, with a warning where they are few."""
    text = f"{held} sequences of {tokens} tokens"
    if held < LEAST_SHARE_HELD * max_num_seqs:
        text += f"; WARNING: fewer than a quarter of max_num_seqs = {max_num_seqs}: raise kv_cache_memory"
    return text
