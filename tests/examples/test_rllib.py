"""The RLlib example: guidance in a real PPO Learner on CartPole, each run in a process of its own."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import EXAMPLES, ROOT

EXAMPLE = EXAMPLES / "rllib" / "train.py"
ITERATIONS = 4

PLAIN_PPO = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import ray, train
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
train.train_teacher(pathlib.Path("teacher").resolve(), 1)  # the second algorithm of a process, as in the example
algorithm = train.ppo(0).build_algo()
print(json.dumps([algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(int(sys.argv[2]))]))
"""

pytestmark = pytest.mark.long  # two starts of Ray, and PPO


def run(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, *arguments]
    environment = {**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def curves(
    clean_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[float, list[dict[str, float]]]:
    """Learning curves of one seed, by the weight of guidance, from a short form of the documented command."""
    folder = tmp_path_factory.mktemp("rllib")
    options = ["--teacher-iterations", "10", "--iterations", str(ITERATIONS), "--seeds", "0", "--output", "out"]
    printed = run(folder, clean_environment, str(EXAMPLE), *options)
    assert "guidance 1, seed 0: return" in printed
    assert (folder / "out" / "curve.png").stat().st_size > 10_000
    with (folder / "out" / "curve.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return {weight: [row for row in rows if row["weight"] == weight] for weight in (0.0, 1.0)}


def test_both_runs_start_alike_and_guidance_makes_the_teachers_actions_likelier(
    curves: dict[float, list[dict[str, float]]],
) -> None:
    alone, guided = curves[0.0], curves[1.0]
    assert len(alone) == len(guided) == ITERATIONS
    assert alone[0]["episode_return"] == guided[0]["episode_return"]  # sampled before the first update
    assert guided[0]["nll"] < alone[0]["nll"] - 0.05  # after six epochs on the very same states
    assert all(0.0 <= row["agreement"] <= 1.0 and math.isfinite(row["nll"]) for row in alone + guided)


def test_at_weight_zero_the_run_is_ppos(
    curves: dict[float, list[dict[str, float]]], clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """Returns after updates depend on every weight of the policy."""
    printed = run(tmp_path, clean_environment, "-c", PLAIN_PPO, str(EXAMPLE.parent), str(ITERATIONS))
    plain = json.loads(printed.splitlines()[-1])
    assert [row["episode_return"] for row in curves[0.0]] == plain
