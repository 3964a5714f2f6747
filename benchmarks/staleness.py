"""TGPO on the demo's task with batches sampled 0, 1 and 2 ahead of the learners: accuracy and wall time, as JSON.

    python benchmarks/staleness.py                       # three seeds
    python benchmarks/staleness.py --seeds 0 --staleness 0 1 --weight-update in_flight

The runs are those of `make demo` but for `training.max_staleness`; seeds are the outer loop, so each staleness has its
turn in every stretch of time. Seconds are those of the iterations, evaluations left out. Runs go to runs/staleness, one
folder each; a finished run is not run again. Beside them: curves.svg, held-out accuracy over iterations and seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "demo"))

import ray
import run as demo  # pyright: ignore[reportMissingImports] (examples/demo/run.py)

from benchmarks.reports import print_report
from tgpo_ray.cluster import connect
from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.driver import fit
from tgpo_ray.reporting import RunRecord, load_run
from tgpo_ray.train import quiet_other_packages

ROOT = Path(__file__).resolve().parents[1]
YAML = ROOT / "yaml" / "demo" / "tgpo.yaml"
OUTPUT = ROOT / "runs" / "staleness"
COLORS = ("#1f2430", "#0072B2", "#D55E00", "#009E73")  # told apart by colour-blind readers
REACHED = 0.8  # the accuracy whose first evaluation is timed


class Run(NamedTuple):
    staleness: int
    seed: int
    record: RunRecord

    @property
    def seconds(self) -> np.ndarray:
        """(n + 1,) seconds of iterations until the end of each iteration, 0 at first."""
        return np.concatenate([[0.0], np.cumsum(self.record.series("time/iteration_s")[1])])

    @property
    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Iterations, seconds and held-out accuracy of the evaluations."""
        iterations, accuracy = self.record.series("evaluation/accuracy")
        return iterations, self.seconds[iterations.astype(int)], accuracy

    def figures(self) -> dict[str, Any]:
        iterations, seconds, accuracy = self.curve
        reached = np.flatnonzero(accuracy >= REACHED)
        last = {name: self.record.series(name)[1] for name in ("weights_version_lag", "policy/importance_weight")}
        return {
            "staleness": self.staleness,
            "seed": self.seed,
            "start": round(float(accuracy[0]), 3),
            "end": round(float(accuracy[-1]), 3),
            "best": round(float(accuracy.max()), 3),
            "seconds": round(float(self.seconds[-1]), 1),
            f"iterations_to_{REACHED}": int(iterations[reached[0]]) if len(reached) else None,
            f"seconds_to_{REACHED}": round(float(seconds[reached[0]]), 1) if len(reached) else None,
            **{name: round(float(values.mean()), 3) for name, values in last.items() if len(values)},
        }


def main() -> None:
    quiet_other_packages()
    options = parse_arguments()
    connect(AlgorithmConfig.from_yaml(YAML).ray)
    runs: list[Run] = []
    try:
        for seed in options.seeds:
            models = demo.prepare_models(seed, 0.0, fresh=False)
            runs += [Run(staleness, seed, train(staleness, seed, models, options)) for staleness in options.staleness]
    finally:
        ray.shutdown()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    draw(runs, OUTPUT / "curves.svg")
    print_report(
        {
            "what": "TGPO on the demo's task, batches sampled ahead of the learners",
            "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)},
            "weight_update": options.weight_update,
            "means": [means([run for run in runs if run.staleness == staleness]) for staleness in options.staleness],
            "runs": [run.figures() for run in runs],
        },
        options.out,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weight-update", default="between_batches", choices=["between_batches", "in_flight"])
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    return parser.parse_args()


def train(staleness: int, seed: int, models: Path, options: argparse.Namespace) -> RunRecord:
    """The record of one run, which is trained unless it is finished already."""
    update = options.weight_update if staleness > 0 else "between_batches"
    folder = OUTPUT / f"staleness{staleness}-{update}-seed{seed}"
    if not (folder / "report.html").is_file():
        demo.console.rule(f"staleness {staleness}, {update}, seed {seed}")
        overrides = [
            f"name={folder.name}",
            f"seed={seed}",
            f"model.path={models / 'policy'}",
            f"teacher.path={models / 'teacher'}",
            f"training.max_staleness={staleness}",
            f"env_runners.weight_update={update}",
            f"checkpointing.storage_path={OUTPUT}",
        ]
        fit(AlgorithmConfig.from_yaml(YAML, overrides))
    return load_run(folder, label=f"staleness {staleness}, seed {seed}")


def means(runs: Sequence[Run]) -> dict[str, Any]:
    """The means over the seeds; over those that have the figure where some lack it."""
    rows = [run.figures() for run in runs]
    found = {name: [row[name] for row in rows if row.get(name) is not None] for name in rows[0] if name != "seed"}
    return {name: round(float(np.mean(values)), 3) for name, values in found.items() if values}


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draws held-out accuracy over iterations and over seconds. Thin lines are seeds, bold ones their mean."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    settings: dict[Any, Any] = {
        "svg.hashsalt": "staleness",
        "svg.fonttype": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    values = sorted({run.staleness for run in runs})
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8, 3), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axis, (axes, name) in enumerate(zip(panels, ("iteration", "seconds of iterations"), strict=True)):
            axes.set_xlabel(name, fontsize=9)
            axes.tick_params(labelsize=8)
            for color, staleness in zip(COLORS, values, strict=False):
                curves = [run.curve for run in runs if run.staleness == staleness]
                for curve in curves:
                    axes.plot(curve[axis], curve[2], color=color, linewidth=0.7, alpha=0.4)
                mean = np.mean([[curve[axis], curve[2]] for curve in curves], axis=0)
                axes.plot(mean[0], mean[1], color=color, linewidth=2)
        panels[0].set_ylabel("held-out accuracy", fontsize=9)
        handles = [Line2D([], [], color=color, linewidth=2) for color, _ in zip(COLORS, values, strict=False)]
        labels = [f"max_staleness {staleness}" for staleness in values]
        figure.legend(handles, labels, loc="outside upper center", ncols=len(values), frameon=False, fontsize=9)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
