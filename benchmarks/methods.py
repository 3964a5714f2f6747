"""All methods on the demo's task, with a near and a far teacher, at one budget: a table, curves and a CSV.

    python benchmarks/methods.py                                       # every method, both teachers, seed 0
    python benchmarks/methods.py --methods grpo tgpo kdrl --teachers far --seeds 0 1 2 --iterations 60

The task, the policy and the far teacher are those of `make demo`: three-digit times one-digit multiplication by a
policy with the habit of answering at once. The *far* teacher is three times as large and mostly works its answers out;
the *near* one is the policy itself before it took up the habit. A method without a teacher is run once.

The budget is the same number of iterations of the same number of rollouts, at the demo's learning rate for all: a
method that its authors run at another rate or batch may do better with its own. SFT takes as many updates of as many
responses. Runs go to runs/methods, one folder each; a finished run is not run again. Beside them: runs.csv, a row a
run; table.md, means over the seeds; curves.svg, the held-out accuracy of every run.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "demo"))

import ray
import run as demo  # pyright: ignore[reportMissingImports] (examples/demo/run.py)

from tgpo_ray.cluster import connect
from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.driver import fit
from tgpo_ray.reporting import RunRecord, load_run
from tgpo_ray.train import quiet_other_packages

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "runs" / "methods"
TEACHERS = {"far": "teacher", "near": "base"}  # folders of the demo's models
COLORS = {"far": "#0072B2", "near": "#D55E00", "": "#1f2430"}  # told apart by colour-blind readers


@dataclass(frozen=True)
class Method:
    """One method: sections on top of yaml/demo/tgpo.yaml, which the method's own class must have."""

    algorithm: str
    training: dict[str, Any] = field(default_factory=dict)
    guidance: dict[str, Any] | None = None  # None: no teacher
    traces: str = ""  # the section that reads the teacher's verified answers


METHODS = {
    "grpo": Method("GRPO"),
    "dapo": Method("GRPO", {"clip_high": 0.28, "dynamic_sampling": True, "entropy_weight": 0.0}),
    "drgrpo": Method("DrGRPO", {"updates_per_iteration": 1}),
    "prime": Method("PRIME", {"updates_per_iteration": 1, "dynamic_sampling": False}),
    "tgpo": Method("TGPO", guidance={"weight": 0.1}),
    "tgpo_annealing": Method("TGPO", guidance={"weight": 0.1, "decay": 0.002}),
    "tgpo_topk": Method("TGPO", guidance={"weight": 0.1, "label": "topk", "top_k": 8}),
    "tgpor_logp": Method("TGPOR", guidance={"signal": "logp"}),
    "tgpor_match": Method("TGPOR", guidance={"signal": "match", "weight": 0.2}),
    "rkl": Method("RKL", guidance={}),
    "op_distill": Method("OPDistill", guidance={}),
    "kdrl": Method("KDRL", guidance={"weight": 0.1}),
    "tropd": Method("TrOPD", guidance={"gate": "expected", "top_k": 8}),
    "gkd": Method("GKD", {"on_policy_share": 1.0}, guidance={}),
    "minillm": Method("MiniLLM", guidance={}),
    "luffy": Method("LUFFY", {"updates_per_iteration": 1}, traces="traces"),
    "sft": Method("SFT", traces="data"),
}


class Run(NamedTuple):
    method: str
    teacher: str  # "": none
    seed: int
    record: RunRecord

    def figures(self) -> dict[str, Any]:
        """The run's row of runs.csv."""
        iterations, accuracy = self.record.series("evaluation/accuracy")
        assert iterations[0] == 0, "a run begins with an evaluation"
        return {
            "method": self.method,
            "teacher": self.teacher,
            "seed": self.seed,
            "start": round(accuracy[0], 4),
            "end": round(accuracy[-1], 4),
            "best": round(accuracy.max(), 4),
            "response_length": round(self.record.series("evaluation/response_length")[1][-1], 1),
            "seconds": round(self.record.series("time/total_s")[1][-1]),
        }


def main() -> None:
    quiet_other_packages()
    options = parse_arguments()
    # PRIME has a second learner and a reference: four actors' halves and one whole, most of them idle at a time
    connect(AlgorithmConfig.from_yaml(ROOT / "yaml" / "demo" / "tgpo.yaml", ["ray.num_cpus=4"]).ray)
    runs: list[Run] = []
    try:
        for seed in options.seeds:
            models = demo.prepare_models(seed, 0.0, fresh=False)
            for name, teacher in chosen(options):
                runs.append(Run(name, teacher, seed, train(name, teacher, seed, models, options.iterations)))
                write_rows(runs)  # as it grows: an interrupted benchmark has its rows
    finally:
        ray.shutdown()
    (OUTPUT / "table.md").write_text(table(runs))
    draw_curves(runs, OUTPUT / "curves.svg")
    print(f"{table(runs)}\n{OUTPUT}: runs.csv, table.md, curves.svg")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--teachers", nargs="+", default=list(TEACHERS), choices=list(TEACHERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--iterations", type=int, default=60)
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """(method, teacher) of each run, with "" for no teacher."""
    for name in options.methods:
        taught = METHODS[name].guidance is not None or METHODS[name].traces
        yield from ((name, teacher) for teacher in options.teachers) if taught else [(name, "")]


def train(name: str, teacher: str, seed: int, models: Path, iterations: int) -> RunRecord:
    """The record of one run, which is trained unless it is finished already."""
    label = f"{name} {teacher}".strip()
    folder = OUTPUT / f"{name}-{teacher or 'alone'}-seed{seed}-{iterations}"
    if not (folder / "report.html").is_file():
        demo.console.rule(f"{label}, seed {seed}")
        config = AlgorithmConfig.from_dict(sections(name, teacher, seed, models, iterations) | {"name": folder.name})
        fit(config.check())
    return load_run(str(folder), label=f"{label} seed {seed}")


def sections(name: str, teacher: str, seed: int, models: Path, iterations: int) -> dict[str, Any]:
    """The run's configuration, as in a YAML file."""
    method = METHODS[name]
    base: dict[str, Any] = AlgorithmConfig.from_yaml(ROOT / "yaml" / "demo" / "tgpo.yaml").to_dict()
    training = {key: base["training"][key] for key in ("groups_per_iteration", "group_size", "lr")}
    data: dict[str, Any] = {
        "algorithm": method.algorithm,
        "seed": seed,
        "model": {"path": str(models / "policy")},
        "env_runners": base["env_runners"],
        "learners": base["learners"],
        "evaluation": base["evaluation"],
        "checkpointing": {"storage_path": str(OUTPUT)},
        "training": {**training, "updates_per_iteration": 1, "num_iterations": iterations, **method.training},
    }
    if method.algorithm == "SFT":
        batch = training["groups_per_iteration"] * training["group_size"]
        data["training"] = {"num_iterations": iterations, "batch_size": batch, "lr": training["lr"]}
    else:
        data["envs"] = base["envs"]
    if method.guidance is not None:
        actors = {"num_cpus_per_replica": 0.5, "kv_cache_memory": "64MiB"}
        data |= {"teacher": {"path": str(models / TEACHERS[teacher]), **actors}, "guidance": method.guidance}
    if method.traces:
        limit = {"max_tokens": 64} if method.traces == "data" else {}
        data[method.traces] = {"path": traces(teacher, seed, models, iterations), **limit}
    return data


def traces(teacher: str, seed: int, models: Path, iterations: int) -> str:
    """The file of the teacher's verified answers to the problems of a run with this seed."""
    target = OUTPUT / f"traces-{teacher}-seed{seed}-{iterations}.jsonl"
    if not target.is_file():
        yaml = str(ROOT / "yaml" / "demo" / "tgpo.yaml")
        overrides = [f"seed={seed}", f"model.path={models / 'policy'}", f"teacher.path={models / TEACHERS[teacher]}"]
        command = [sys.executable, "-m", "tgpo_ray.cli", "traces", yaml, *overrides, "--to", str(target)]
        subprocess.run([*command, "--num-problems", str(16 * iterations), "--num-samples", "4"], check=True, cwd=ROOT)
    return str(target)


def write_rows(runs: Sequence[Run]) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    rows = [run.figures() for run in runs]
    with (OUTPUT / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(json.dumps(rows[-1]), flush=True)


def table(runs: Sequence[Run]) -> str:
    """Markdown: the mean accuracy at the end over the seeds, with the least and the largest."""

    def cell(name: str, teacher: str) -> str:
        ends = [run.figures()["end"] for run in runs if run[:2] == (name, teacher)]
        return f"{np.mean(ends):.2f} ({min(ends):.2f} to {max(ends):.2f})" if ends else ""

    starts = {run.seed: run.figures()["start"] for run in runs}
    lines = [
        f"Start: {np.mean(list(starts.values())):.2f}, mean over seeds {', '.join(map(str, starts))}.\n",
        "| method | no teacher | far teacher | near teacher |",
        "|---|---|---|---|",
    ]
    for name in [name for name in METHODS if any(run.method == name for run in runs)]:
        lines.append(f"| `{name}` | {cell(name, '')} | {cell(name, 'far')} | {cell(name, 'near')} |")
    return "\n".join(lines) + "\n"


def draw_curves(runs: Sequence[Run], path: Path) -> None:
    """Draws held-out accuracy over iterations, a panel for each method. Thin lines are seeds, bold ones their mean."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = [name for name in METHODS if any(run.method == name for run in runs)]
    width = min(len(names), 6)
    height = -(-len(names) // width)
    settings: dict[Any, Any] = {
        "svg.hashsalt": "methods",
        "svg.fonttype": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(1.9 * width, 1.6 * height + 0.5), layout="constrained")
        panels = figure.subplots(height, width, sharex=True, sharey=True, squeeze=False).ravel()
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(panels, names, strict=False):
            axes.set_title(name, fontsize=9)
            axes.tick_params(labelsize=8)
            for teacher, color in COLORS.items():
                _draw_seeds(axes, [run for run in runs if run[:2] == (name, teacher)], color)
        handles = [Line2D([], [], color=color, linewidth=2) for color in COLORS.values()]
        labels = [f"{teacher or 'no'} teacher" for teacher in COLORS]
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
        figure.supxlabel("iteration", fontsize=9)
        figure.supylabel("held-out accuracy", fontsize=9)
        figure.savefig(path, metadata={"Date": None})


def _draw_seeds(axes: Any, runs: Sequence[Run], color: str) -> None:
    curves = [run.record.series("evaluation/accuracy") for run in runs]
    for iterations, accuracy in curves:
        axes.plot(iterations, accuracy, color=color, linewidth=0.7, alpha=0.4)
    if curves:
        axes.plot(curves[0][0], np.mean([accuracy for _, accuracy in curves], axis=0), color=color, linewidth=2)


if __name__ == "__main__":
    main()
