"""Guidance in RLlib's PPO, by a Learner whose loss has a teacher's action, on a task without text.

    python examples/rllib/train.py                    # writes runs/rllib/curve.csv and curve.png

PPO first trains a teacher for CartPole. Students then learn from scratch on a smaller budget, with and without guidance
towards the teacher's best action in the states that the student visits. The Learner below is the whole plug.
"""

from __future__ import annotations

import argparse
import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module import RLModule
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_RETURN_MEAN,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
)

from tgpo_ray.guidance import LinearDecay, guidance_loss_from_logits

ROOT = Path(__file__).resolve().parents[2]
BATCH = 1024  # environment steps an iteration


class GuidedPPOLearner(PPOTorchLearner):
    """PPO's loss plus w_t times the mean -log pi(a^T | s), a^T the teacher's best action, t in environment steps.

    `learner_config_dict` has `teacher`, the folder of an RLModule's checkpoint, and `weight`, a schedule of
    `tgpo_ray.guidance`. RLlib keeps the count of environment steps in its checkpoints, so a restored run goes on at the
    right weight.
    """

    def build(self) -> None:
        super().build()
        with torch.random.fork_rng():  # a new module draws its first weights: at weight 0 the run is PPO's to the bit
            self._teacher: Any = RLModule.from_checkpoint(self.config.learner_config_dict["teacher"])
        self._weight = self.config.learner_config_dict["weight"]
        self._env_steps = 0

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        self._env_steps = int(timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME])

    def compute_loss_for_module(
        self, *, module_id: str, config: PPOConfig, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Any:
        loss = super().compute_loss_for_module(module_id=module_id, config=config, batch=batch, fwd_out=fwd_out)
        weight = self._weight(self._env_steps)
        logits = fwd_out[Columns.ACTION_DIST_INPUTS]  # (B, V), V the number of actions
        with torch.no_grad():
            teacher_ids = self._teacher.forward_inference(batch)[Columns.ACTION_DIST_INPUTS].argmax(-1)  # (B,)
        # PPO adds an artificial step to each episode, for the value function. It is no state to learn from.
        mask = batch.get(Columns.LOSS_MASK, torch.ones_like(teacher_ids)).to(logits.dtype)
        guidance = guidance_loss_from_logits(logits, teacher_ids, mask).sum() / mask.sum()
        agreement = ((logits.argmax(-1) == teacher_ids) * mask).sum() / mask.sum()
        values = {"guidance_weight": weight, "guidance_nll": guidance.detach(), "guidance_agreement": agreement}
        self.metrics.log_dict(values, key=module_id, window=1)
        return loss + weight * guidance if weight > 0 else loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher-iterations", type=int, default=60)
    parser.add_argument("--iterations", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weight", type=float, default=1.0, help="of guidance at the start; 0 at half of the run")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "rllib")
    options = parser.parse_args()
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        teacher = train_teacher(options.output.resolve() / "teacher", options.teacher_iterations)
        half = options.iterations * BATCH / 2
        rows = []
        for weight in (0.0, options.weight):
            for seed in options.seeds:
                rows += train_student(teacher, LinearDecay(weight, decay=weight / half), seed, options.iterations)
    finally:
        ray.shutdown()
    write_csv(options.output / "curve.csv", rows)
    write_plot(options.output / "curve.png", rows)


def ppo(seed: int) -> PPOConfig:
    """The configuration of PPO in this process, without remote environment runners and learners."""
    return (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=8)
        .learners(num_learners=0)
        .training(lr=5e-4, train_batch_size_per_learner=BATCH, minibatch_size=128, num_epochs=6, vf_loss_coeff=0.01)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64], vf_share_layers=False))
        .debugging(seed=seed, log_level="ERROR")
    )


def train_teacher(folder: Path, iterations: int) -> str:
    """The folder of the RLModule of the iteration with the best mean return."""
    algorithm: Any = ppo(seed=100).build_algo()
    best = float("-inf")
    for iteration in range(iterations):
        episode_return = algorithm.train()[ENV_RUNNER_RESULTS][EPISODE_RETURN_MEAN]
        if episode_return > best:
            best = episode_return
            algorithm.get_module().save_to_path(folder)
        if (iteration + 1) % 10 == 0:
            print(f"teacher, iteration {iteration + 1}: return {episode_return:.0f}, best {best:.0f}", flush=True)
    algorithm.stop()
    return str(folder)


def train_student(teacher: str, weight: LinearDecay, seed: int, iterations: int) -> list[dict[str, float]]:
    """Rows of the learning curve of one run. The return is NaN in an iteration in which no episode ended."""
    settings = {"teacher": teacher, "weight": weight}
    config = ppo(seed).learners(learner_class=GuidedPPOLearner, learner_config_dict=settings)
    algorithm, rows = config.build_algo(), []
    for _ in range(iterations):
        result = algorithm.train()
        learner = result[LEARNER_RESULTS][DEFAULT_MODULE_ID]
        rows.append({
            "weight": weight.weight, "seed": seed,
            "env_steps": result[ENV_RUNNER_RESULTS][NUM_ENV_STEPS_SAMPLED_LIFETIME],
            "episode_return": result[ENV_RUNNER_RESULTS][EPISODE_RETURN_MEAN],
            **{name: float(learner[f"guidance_{name}"]) for name in ("nll", "agreement")},
        })  # fmt: skip
    algorithm.stop()
    last = rows[-1]
    print(f"guidance {weight.weight:g}, seed {seed}: return {last['episode_return']:.0f} after {last['env_steps']:.0f} "
          f"steps, agreement with the teacher {last['agreement']:.2f}", flush=True)  # fmt: skip
    return rows


def write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_plot(path: Path, rows: list[dict[str, float]]) -> None:
    """Draws the mean over seeds as a line, and each seed faintly."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, name in zip(axes, ("episode_return", "agreement"), strict=True):
        for color, weight in zip(("tab:gray", "tab:blue"), sorted({row["weight"] for row in rows}), strict=False):
            runs = [[r for r in rows if r["weight"] == weight and r["seed"] == s] for s in {r["seed"] for r in rows}]
            steps = [row["env_steps"] for row in runs[0]]
            for run in runs:
                axis.plot(steps, [row[name] for row in run], color=color, alpha=0.3, linewidth=1)
            values = np.array([[row[name] for row in run] for run in runs])  # (seeds, iterations)
            axis.plot(
                steps, np.nanmean(values, 0), color=color, label="PPO" if weight == 0 else f"PPO, guidance {weight:g}"
            )
        axis.set(xlabel="environment steps", ylabel=name.replace("_", " "))
    axes[0].legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
