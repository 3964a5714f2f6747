"""TRL's GRPOTrainer with TGPO's term as a contestant of `whole_step.py`. It must be TRL 1.16."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "trl"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets import Dataset
from train import GuidedGRPOTrainer  # pyright: ignore[reportMissingImports]  (examples/trl/train.py)
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig

from benchmarks.contestant import keep_output_for_replies, reply, turns
from benchmarks.step_shapes import (
    ENV_ID,
    GROUP_SIZE,
    LEARNING_RATE,
    NUM_ROWS,
    RESPONSE,
    SHAPES,
    WEIGHT,
    Shape,
    env_arguments,
)
from tgpo_ray.envs import as_trl_reward, trl_rows
from tgpo_ray.guidance import LinearDecay


class TakesTurns(TrainerCallback):
    """Trains as many steps as a turn has, then waits for the next turn."""

    trainer: Any

    def __init__(self) -> None:
        self._turns = turns()
        self._left, self._start, self._num_steps = 1, time.monotonic(), 1  # the first step warms up

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._left:
            return
        reply({"seconds": (self._end - self._start) / self._num_steps, **self._checked(state)})
        self._num_steps = self._left = next(self._turns, 0)
        if not self._left:
            raise SystemExit
        self._start = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._left -= 1
        self._end = time.monotonic()

    def _checked(self, state: Any) -> dict[str, float]:
        last = next((row for row in reversed(state.log_history) if "guidance/nll" in row), None)
        if last is None:
            return {}
        assert last["completions/mean_length"] == RESPONSE, last
        return {"guidance_nll": last["guidance/nll"]}


def trainer(shape: Shape, folder: Path, batch_size: int) -> Any:
    """The trainer: one optimizer step for each batch of all groups, split into forward passes of `batch_size`."""
    num_episodes = shape.num_groups * GROUP_SIZE
    arguments = GRPOConfig(
        output_dir=str(folder / "trl"), max_steps=1_000_000, learning_rate=LEARNING_RATE, lr_scheduler_type="constant",
        per_device_train_batch_size=batch_size, gradient_accumulation_steps=num_episodes // batch_size,
        num_generations=GROUP_SIZE, max_completion_length=RESPONSE, temperature=1.0,
        logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, seed=0,
        use_cpu=True, bf16=False, gradient_checkpointing=False, optim="adamw_torch", weight_decay=0.01,
    )  # fmt: skip
    environment = env_arguments(folder)
    return GuidedGRPOTrainer(
        model=str(folder / "policy"),
        reward_funcs=as_trl_reward(ENV_ID, **environment),
        args=arguments,
        train_dataset=Dataset.from_list(trl_rows(ENV_ID, count=NUM_ROWS, **environment)),
        processing_class=AutoTokenizer.from_pretrained(folder / "policy"),
        teacher=AutoModelForCausalLM.from_pretrained(folder / "teacher"),
        weight=LinearDecay(WEIGHT, 0.0),
        callbacks=[TakesTurns()],
    )


def main() -> None:
    shape, folder, batch_size = SHAPES[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3])
    keep_output_for_replies()
    trainer(shape, folder, batch_size).train()


if __name__ == "__main__":
    main()
