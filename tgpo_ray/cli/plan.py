"""The output of `tgpo-ray plan`: the resolved configuration, the CPUs and GPUs of each actor, the size of a step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import StringIO

from rich import box
from rich.console import Console, Group
from rich.syntax import Syntax
from rich.table import Table

from tgpo_ray.config import AlgorithmConfig, dump_yaml, resource_plan


def local_cluster(config: AlgorithmConfig) -> dict[str, float]:
    """Returns the CPUs that a local cluster of `config` would count: `ray.num_cpus`, else those of this machine."""
    return {"CPU": float(config.ray.num_cpus or os.cpu_count() or 1)}


def render_plan(config: AlgorithmConfig, cluster: Mapping[str, float] | None = None) -> Group:
    """Returns the plan as rich renderables. `cluster`: `ray.cluster_resources()`; default: this machine's CPUs."""
    cluster = cluster or local_cluster(config)
    gpus = cluster.get("GPU", 0.0) > 0
    resolved = Syntax(dump_yaml(config.resolved(gpus=gpus).to_dict()), "yaml", background_color="default")
    return Group(resolved, "", resources_table(config, cluster), "", step_table(config))


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
    table = Table(title="One iteration", title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column("what")
    table.add_column("value")
    for what, value in config.facts().items():
        table.add_row(what, value)
    return table
