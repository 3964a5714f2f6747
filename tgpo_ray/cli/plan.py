"""What `tgpo-ray plan` prints: the resolved configuration, who gets which CPUs and GPUs, and the size of a step."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from io import StringIO
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.syntax import Syntax
from rich.table import Table

from tgpo_ray.config import SFTTrainingConfig, TrainingConfig, dump_yaml, longest_episode, resolve, resource_plan

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig


def local_cluster(config: AlgorithmConfig) -> dict[str, float]:
    """Returns the CPUs that a local cluster of `config` would count: `ray.num_cpus`, else those of this machine."""
    return {"CPU": float(config.ray.num_cpus or os.cpu_count() or 1)}


def render_plan(config: AlgorithmConfig, cluster: Mapping[str, float] | None = None) -> Group:
    """Returns the plan as rich renderables. `cluster`: `ray.cluster_resources()`; default: this machine's CPUs."""
    cluster = cluster or local_cluster(config)
    gpus = cluster.get("GPU", 0.0) > 0
    resolved = Syntax(dump_yaml(resolve(config, gpus=gpus).to_dict()), "yaml", background_color="default")
    return Group(resolved, "", resources_table(config, cluster), "", step_table(config))


def plan_text(config: AlgorithmConfig, cluster: Mapping[str, float] | None = None, *, width: int = 120) -> str:
    """Returns the plan as plain text."""
    page = StringIO()
    Console(file=page, width=width, color_system=None).print(render_plan(config, cluster))
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def resources_table(config: AlgorithmConfig, cluster: Mapping[str, float]) -> Table:
    """Returns who gets which CPUs and GPUs, and what the cluster has."""
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
        table.add_row(row.who, str(row.count), *(f"{amount:g}" for amount in amounts))
    return table


def step_table(config: AlgorithmConfig) -> Table:
    """Returns the size of an iteration, the denominators of the loss, and when the teacher leaves."""
    table = Table(title="One iteration", title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column("what")
    table.add_column("value")
    for what, value in step_facts(config).items():
        table.add_row(what, value)
    return table


def step_facts(config: AlgorithmConfig) -> dict[str, str]:
    """Returns what an iteration amounts to, as text by name."""
    training = config.training
    facts = _sft_facts(config, training) if isinstance(training, SFTTrainingConfig) else _policy_facts(config)
    sets = ", ".join(env.label for env in config.evaluation.envs)
    if sets:
        facts["evaluation"] = f"{sets}: {_evaluation_times(config)}"
    teacher = teacher_last_step(config)
    if teacher:
        facts["teacher"] = teacher
    if config.uses_reference:
        facts["reference"] = f"{config.reference.path or config.model.path}, frozen, called in every iteration"
    return facts


def _policy_facts(config: AlgorithmConfig) -> dict[str, str]:
    training: TrainingConfig = config.training
    runners, updates = config.env_runners, training.updates_per_iteration
    episodes = training.groups_per_iteration * training.group_size
    responses, longest = episodes * runners.max_response_tokens, longest_episode(config)
    learners = resolve(config, gpus=False).learners
    per_micro_batch = max(1, (learners.token_budget or longest) // longest)
    micro_batches = math.ceil(episodes / updates / learners.num_learners / per_micro_batch)
    return {
        "iterations": f"{training.num_iterations}, {training.num_iterations * updates} optimizer steps",
        "rollouts": f"{training.groups_per_iteration} groups x {training.group_size} = {episodes} episodes",
        "updates": f"{updates}, each on {training.groups_per_update} groups = {episodes // updates} episodes",
        "denominator Z": _denominator(config, episodes // updates, responses // updates),
        "tokens": f"at most {episodes * longest:,} ({responses:,} of them responses)",
        "micro-batches": f"at most {micro_batches} a learner and update, of {learners.token_budget:,} tokens",
        "old log-probs": training.resolved_old_logprobs(),
    }


def _denominator(config: AlgorithmConfig, episodes: int, tokens: int) -> str:
    """What an update of that many episodes, and of at most that many response tokens, is divided by."""
    aggregation = getattr(config.training, "loss_aggregation", "token")
    if aggregation == "constant":
        return f"{episodes:,} episodes of an update x max_response_tokens = {tokens:,}"
    if aggregation == "sequence":
        return f"episodes of an update over all learners, {episodes:,}"
    return f"policy tokens of an update over all learners, at most {tokens:,}"


def _sft_facts(config: AlgorithmConfig, training: SFTTrainingConfig) -> dict[str, str]:
    steps = f"{training.num_iterations}" if training.num_iterations else f"{training.num_epochs:g} epochs of the data"
    tokens = training.batch_size * longest_episode(config)
    return {
        "iterations": steps,
        "batch": f"{training.batch_size} rows, shared by {config.learners.num_learners} learner(s)",
        "denominator Z": "response tokens of a batch over all learners",
        "tokens": f"at most {tokens:,}",
    }


def _evaluation_times(config: AlgorithmConfig) -> str:
    evaluation = config.evaluation
    times = ["at the start"] * evaluation.at_start + ["at the end"] * evaluation.at_end
    if evaluation.every is not None:
        times.insert(1 if evaluation.at_start else 0, f"every {evaluation.every} iterations")
    return ", ".join(times) or "never"


def teacher_last_step(config: AlgorithmConfig) -> str:
    """Returns when the teacher is called for the last time; empty where the algorithm has no guidance.

    The schedule is 0 from step t on (steps counted from 0), so the last of the iterations 1..n that calls it is t.
    """
    guidance = getattr(config, "guidance", None)
    if guidance is None:
        return ""
    iterations = config.training.num_iterations
    step = guidance.build_schedule(iterations).last_step()
    if step == 0:
        return "never called: guidance.weight is 0"
    if step is None or step >= iterations:
        return f"called in all {iterations} iterations"
    return f"last called in iteration {step} of {iterations}; then w = 0 and its resources return"
