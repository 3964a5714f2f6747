"""Benchmarks d and g: whole training steps of TGPO against TRL's trainer, and how well the stages overlap, as JSON.

    python benchmarks/whole_step.py                              # three shapes, two rounds
    python benchmarks/whole_step.py --shapes long_prompts --rounds 4 --set learners.token_budget=4096

A step samples 8 responses of 64 tokens to each prompt, asks the teacher, and updates the policy once. The shapes are
16 prompts of 16 tokens at V = 128, and 4 prompts of 16 or of 220 tokens at V = 32768. Models are random Qwen3 models of
4 layers whose responses never end early. The contestants are processes that take turns, so each round has all of them:

    ours           on-policy; learners.layout as the shape says
    ours_own_cores the same with ray.idle_cores false: one thread for each of runner, teacher and learner
    ours_ahead     the same with training.max_staleness 1, where this version has it
    trl_<t>t_<b>   GRPOTrainer of TRL 1.16 with the guidance of examples/trl, t threads, b sequences a forward pass

TRL writes with transformers' `generate`; its vLLM needs the distribution `vllm`, which a CPU machine does not have. The
best of its settings is the one that ours is compared with. All contestants compute the same loss of the same models:
their -log pi of the teacher's tokens must agree. `slowest_stage_over_wall` (g) is the longest of the times in which the
runner's, the teacher's and the learner's models compute, over that of the step. On c cores no step is shorter than the
sum of the three over c either; `bound_over_wall` takes the larger of the two.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contestant import Contestant
from benchmarks.our_contestant import configuration
from benchmarks.reports import print_report
from benchmarks.step_shapes import GROUP_SIZE, SHAPES, Shape, prepare
from tgpo_ray.config import ConfigError

HERE = Path(__file__).parent
GOAL_OVERLAP = 0.93
NLL_TOLERANCE = 0.02  # relative; the contestants sample different tokens


def commands(name: str, shape: Shape, folder: Path, options: argparse.Namespace) -> dict[str, tuple[list[str], dict]]:
    """Returns the command and the environment of each contestant."""
    arguments = [name, str(folder)]
    ours = [str(HERE / "our_contestant.py"), *arguments, *options.set]
    found: dict[str, tuple[list[str], dict[str, str]]] = {
        "ours": (ours, {}),
        "ours_own_cores": ([*ours, "ray.idle_cores=false"], {}),
    }
    if refused(shape, folder, options) is None:
        found["ours_ahead"] = ([*ours, "training.max_staleness=1"], {})
    num_episodes = shape.num_groups * GROUP_SIZE
    for threads in options.threads:
        for parts in options.parts:
            command = [str(HERE / "trl_contestant.py"), *arguments, str(num_episodes // parts)]
            found[f"trl_{threads}t_{num_episodes // parts}"] = (command, {"OMP_NUM_THREADS": str(threads)})
    return found


def refused(shape: Shape, folder: Path, options: argparse.Namespace) -> str | None:
    """Returns why this version refuses to work one step ahead, or None."""
    try:
        configuration(shape, folder, [*options.set, "training.max_staleness=1"]).check()
    except ConfigError as error:
        return "; ".join(error.problems)
    return None


def run_shape(name: str, options: argparse.Namespace) -> dict[str, Any]:
    shape = SHAPES[name]
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        prepare(shape, folder)
        contestants: dict[str, Contestant] = {}
        turns: dict[str, list[dict[str, Any]]] = {}
        try:
            for label, (command, environment) in commands(name, shape, folder, options).items():
                contestants[label] = Contestant(command, environment)
                turns[label] = []
            for _ in range(options.rounds):
                for label, contestant in contestants.items():
                    turns[label].append(contestant.turn(options.steps))
        finally:
            for contestant in contestants.values():
                contestant.stop()
        return report_of(shape, turns) | {"ours_ahead_refused": refused(shape, folder, options)}


def report_of(shape: Shape, turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Returns seconds, tokens a second and ratios, after a look at the losses."""
    nlls = {label: statistics.mean(turn["guidance_nll"] for turn in of_one) for label, of_one in turns.items()}
    assert max(nlls.values()) < (1 + NLL_TOLERANCE) * min(nlls.values()), f"the losses differ: {nlls}"
    best = min((label for label in turns if label.startswith("trl")), key=lambda label: median_seconds(turns[label]))
    ratios = {
        label: [round(b["seconds"] / o["seconds"], 2) for o, b in zip(turns[label], turns[best], strict=True)]
        for label in turns
        if label.startswith("ours")
    }
    return {
        "shape": {"vocabulary": shape.vocabulary, "groups": shape.num_groups, "prompt": shape.prompt},
        "layout": shape.layout,
        "tokens_per_step": shape.num_tokens,
        "seconds": {label: [round(turn["seconds"], 3) for turn in of_one] for label, of_one in turns.items()},
        "tokens_per_s": {label: round(shape.num_tokens / median_seconds(of_one)) for label, of_one in turns.items()},
        "best_trl": best,
        "ratio_to_best_trl_by_round": ratios,
        "goals": {"ours": shape.goal, "ours_ahead": shape.goal_ahead, "slowest_stage_over_wall_ahead": GOAL_OVERLAP},
        "guidance_nll": {label: round(nll, 4) for label, nll in nlls.items()},
        "stages": {label: of_one[-1] for label, of_one in turns.items() if label.startswith("ours")},
    }


def median_seconds(turns: list[dict[str, Any]]) -> float:
    return statistics.median(turn["seconds"] for turn in turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="of each contestant in a round")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of TRL")
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 4], help="forward passes of TRL's update")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="keys of our configuration")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    report = {
        "what": "whole step of TGPO: sample, verify, ask the teacher, update, sync",
        "machine": {
            "cpu": platform.machine(),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
        },
        "versions": {name: version(name) for name in ("trl", "transformers", "torch", "ray")},
        "settings": {"rounds": options.rounds, "steps": options.steps, "set": options.set},
        "by_shape": {name: run_shape(name, options) for name in options.shapes},
    }
    print_report(report, options.out)


if __name__ == "__main__":
    main()
