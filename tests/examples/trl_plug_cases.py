"""Runs of the TRL example's trainer, in a process of their own: TRL and what it imports warn, and take long to import.

Prints one line of JSON, by case: the log, a fingerprint of the final weights, how often the teacher was asked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "trl"))

from train import ENV_ID, TASK, GuidedGRPOTrainer  # pyright: ignore[reportMissingImports]  # by the path above

from tgpo_ray.envs import as_trl_reward, trl_rows
from tgpo_ray.guidance import LinearDecay

POLICY, TEACHER, OUTPUT = sys.argv[1:]


def different_tokens(completion_ids: Any, **columns: Any) -> list[float]:
    """A reward that random models earn in different amounts, so that the policy's own loss has a gradient."""
    return [len(set(ids)) / 8 for ids in completion_ids]


def run(weight: float | None, *, decay: float = 0.0, batch: int = 16, accumulation: int = 1, **arguments: Any) -> Any:
    settings: dict[str, Any] = {
        "max_steps": 2, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "optim": "sgd", "max_grad_norm": 0.0,
        "num_generations": 8, "max_completion_length": 8, "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "seed": 0,
        "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "temperature": 0.9,
    }  # fmt: skip
    own: dict[str, Any] = {}
    teacher: Any = AutoModelForCausalLM.from_pretrained(TEACHER)
    calls: list[int] = []
    if weight is not None:
        teacher.register_forward_hook(lambda *_: calls.append(1))
        own = {"teacher": teacher, "weight": LinearDecay(weight, decay)}
    rewards: Any = [as_trl_reward(ENV_ID, **TASK), different_tokens]
    trainer: Any = (GRPOTrainer if weight is None else GuidedGRPOTrainer)(
        model=POLICY,
        reward_funcs=rewards,
        args=GRPOConfig(output_dir=OUTPUT, **{**settings, **arguments}),
        train_dataset=Dataset.from_list(trl_rows(ENV_ID, count=64, **TASK)),
        processing_class=AutoTokenizer.from_pretrained(POLICY),
        **own,
    )
    trainer.train()
    parameters = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    log = [row for row in trainer.state.log_history if "loss" in row]
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(len(parameters), generator=generator, dtype=torch.float64)
    weights = [parameters.double().sum().item(), (parameters.double() @ probe).item()]
    return {"log": log, "weights": weights, "teacher_calls": len(calls)}


def main() -> None:
    results = {
        "grpo": run(None),
        "zero": run(0.0),
        "guided": run(1.0, max_steps=8, learning_rate=3e-3, optim="adamw_torch"),
        "whole": run(0.5, max_steps=1),
        "accumulated": run(0.5, max_steps=1, batch=8, accumulation=2),
        "annealed": run(0.5, decay=0.25, max_steps=4),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
