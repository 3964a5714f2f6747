"""SFT: the likelihood of a file's responses, with the prompts masked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tgpo_ray.config import (
    AlgorithmConfig,
    OptimizerConfig,
    Positive,
    PositiveFloat,
    RunView,
    Share,
    TraceFileConfig,
    named,
    section,
)
from tgpo_ray.driver import Algorithm

from .advantages import no_advantages
from .token_losses import SFTLoss

if TYPE_CHECKING:
    from tgpo_ray.driver import Metrics


class SFTDataConfig(TraceFileConfig):
    """`data`: the file of prompts with responses, and their order."""

    shuffle: bool = Field(default=True, description="A new seeded order in each epoch.")
    max_tokens: Positive = Field(default=2048, description="Rows of more tokens are left out and counted.")

    def rules(self, run: RunView) -> Iterator[str]:
        if not self.path:
            yield "data.path: required (jsonl or parquet file of prompts and responses)"


class SFTTrainingConfig(OptimizerConfig):
    """`training` of SFT with the paper's defaults: 3 epochs, batch 64, lr 5e-5, warm-up over a tenth of the steps."""

    lr: PositiveFloat = Field(default=5e-5, description="Learning rate of AdamW after the warm-up.")
    num_epochs: PositiveFloat = Field(default=3.0, description="Passes over the data; num_iterations goes first.")
    num_iterations: Positive | None = Field(default=None, description="Optimizer steps; null: num_epochs counts.")
    batch_size: Positive = Field(default=64, description="Rows of one optimizer step, over all learners.")
    warmup_ratio: Share = Field(default=0.1, description="Share of the steps in which the rate rises linearly.")
    lr_schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="After the warm-up: constant, or a half cosine to lr_end of lr."
    )
    lr_end: Share = Field(default=0.1, description="Schedule cosine: the last rate as a share of lr.")

    def rules(self, run: RunView) -> Iterator[str]:
        yield from super().rules(run)
        if self.lr_schedule != "cosine":
            yield from self.without_use("lr_end", needs=f"training.lr_schedule cosine, got {self.lr_schedule}")

    def facts(self, run: RunView) -> dict[str, str]:
        steps = f"{self.num_iterations}" if self.num_iterations else f"{self.num_epochs:g} epochs of the data"
        return {
            "iterations": steps,
            "batch": f"{self.batch_size} rows, shared by {run.learners.num_learners} learner(s)",
            "denominator Z": "response tokens of a batch over all learners",
            "tokens": f"at most {self.batch_size * run.longest_episode():,}",
        }


class SFTConfig(AlgorithmConfig):
    """Configuration of SFT. Runners start for evaluation only."""

    algo_class = "tgpo_ray.algorithms.sft:SFT"
    needs_envs = False
    group_relative = False
    longest_episode_keys = "data.max_tokens"

    algorithm: str = named("SFT")
    data: SFTDataConfig = section(SFTDataConfig, "Prompts with responses.")
    training: SFTTrainingConfig = section(SFTTrainingConfig, "Batch shape and optimizer.")

    def longest_episode(self) -> int:
        return self.data.max_tokens


class SFT(Algorithm[SFTConfig]):
    """Supervised fine-tuning on traces: L = 1/Z sum_it -log pi(y_it | x_i, y_i<t), Z the response tokens of the batch.

    The tokenizer's end-of-sequence id is appended to each response, so its end is trained too. Teacher-Guided Policy
    Optimization, section 5.1, trains 3 epochs on verified teacher traces at batch 64 and lr 5e-5. Its authors' command
    is OpenRLHF's, whose cosine ends at a tenth of the rate, without weight decay and with betas 0.9 and 0.95.
    """

    config_class = SFTConfig

    def read_data(self, config: SFTConfig) -> None:
        from tgpo_ray.teachers import TraceData

        self.data = TraceData.read(config, config.data, config.data.max_tokens)

    def training_step(self) -> Metrics:
        training = self.config.training
        batch = self.data.batch(self.iteration, training.batch_size, self.config.learners.num_learners)
        # The denominator counts the tokens of all ranks.
        num_tokens = sum(info.num_response_tokens for group in batch for info in group.infos)
        with self.times.stage("update"):
            self.learners.accumulate(batch, no_advantages(batch), SFTLoss())
            metrics = self.learners.step(num_tokens, self.learning_rate())
        tokens = {"tokens/response": float(num_tokens), "tokens/trained": float(num_tokens)}
        return metrics | {"optimizer/lr": self.learning_rate()} | tokens

    @property
    def num_iterations(self) -> int:
        training = self.config.training
        return training.num_iterations or math.ceil(training.num_epochs * len(self.data) / training.batch_size)

    def learning_rate(self) -> float:
        """The rate of this step: linear warm-up over `warmup_ratio`, then constant or a half cosine to `lr_end`."""
        training, step = self.config.training, self.iteration
        warmup = training.warmup_ratio * self.num_iterations
        if step < warmup:
            return training.lr * (step + 1) / (warmup + 1)  # above 0 at the first step, lr after the last
        if training.lr_schedule == "constant":
            return training.lr
        progress = (step - warmup) / max(1.0, self.num_iterations - warmup)
        return training.lr * (training.lr_end + (1.0 - training.lr_end) * 0.5 * (1.0 + math.cos(math.pi * progress)))

    def before_evaluation(self) -> None:
        """Sends the weights to the runners, which are idle while SFT trains."""
        if self.has_runners:
            self.weights.sync()
