"""What yaml/studies/methods.yaml, all methods on the demo's task, is prepared with. The study itself calls this file.

tgpo-ray study yaml/studies/methods.yaml      # prepares, runs, and writes the page with the table and the curves
python benchmarks/methods.py models 0         # the demo's teacher, base policy and policy with its habit, seed 0
python benchmarks/methods.py traces far 0     # the far teacher's verified answers to the problems of seed 0
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "demo"))

import ray
import run as demo  # pyright: ignore[reportMissingImports] (examples/demo/run.py)

from tgpo_ray.cluster import connect
from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.train import quiet_other_packages

ROOT = Path(__file__).resolve().parents[1]
TEACHERS = {"far": "teacher", "near": "base"}  # folders of the demo's models
NUM_PROBLEMS = 16 * 30  # of the study's runs


def main() -> int:
    quiet_other_packages()
    options = parse_arguments()
    if options.what == "models":
        make_models(options.seed)
        return 0
    return write_traces(options.teacher, options.seed)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    models = commands.add_parser("models", help="train the demo's models of a seed")
    traces = commands.add_parser("traces", help="write a teacher's verified answers")
    traces.add_argument("teacher", choices=list(TEACHERS))
    for command in (models, traces):
        command.add_argument("seed", type=int)
    return parser.parse_args()


def make_models(seed: int) -> None:
    """Trains what the cache of the demo lacks."""
    connect(AlgorithmConfig.from_yaml(demo.YAML / "tgpo.yaml", ["ray.num_cpus=4"]).ray)
    try:
        demo.prepare_models(seed, 0.0, fresh=False)
    finally:
        ray.shutdown()


def write_traces(teacher: str, seed: int) -> int:
    """The exit status of `tgpo-ray traces`, which samples four answers to each problem of a run with this seed."""
    target = ROOT / "runs" / "studies" / "methods" / f"traces-{teacher}-{seed}.jsonl"
    models = ROOT / ".cache" / "demo" / f"seed-{seed}-habit-0"
    overrides = [f"seed={seed}", f"model.path={models / 'policy'}", f"teacher.path={models / TEACHERS[teacher]}"]
    command = [sys.executable, "-m", "tgpo_ray.cli", "traces", str(demo.YAML / "tgpo.yaml"), *overrides]
    command += ["--to", str(target), "--num-problems", str(NUM_PROBLEMS), "--num-samples", "4"]
    return subprocess.run(command, check=False, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
