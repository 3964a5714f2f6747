"""SFT: the likelihood of given responses, prompts masked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from pydantic import Field

from tgpo_ray.config import AlgorithmConfig, SFTDataConfig, SFTTrainingConfig
from tgpo_ray.driver import Algorithm

from .token_losses import SFTLoss

if TYPE_CHECKING:
    from tgpo_ray.driver import Metrics


class SFTConfig(AlgorithmConfig):
    """Configuration of SFT. Runners are started for evaluation only."""

    algo_class: ClassVar[type | str | None] = "tgpo_ray.algorithms.sft:SFT"
    needs_envs: ClassVar[bool] = False
    group_relative: ClassVar[bool] = False

    algorithm: str = Field(default="SFT", description="SFT, or an import path as my_pkg.mod:MyConfig.")
    data: SFTDataConfig = Field(default_factory=SFTDataConfig, description="Prompts with responses.")
    training: SFTTrainingConfig = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=SFTTrainingConfig, description="Batch shape and optimizer."
    )


class SFT(Algorithm):
    """Supervised fine-tuning on traces: L = 1/Z sum_it -log pi(y_it | x_i, y_i<t), Z the response tokens of the batch.

    The end of a response is trained too: the tokenizer's end-of-sequence id is appended to it. Teacher-Guided Policy
    Optimization, section 5.1, trains 3 epochs on verified teacher traces at batch 64 and lr 5e-5.
    """

    config_class = SFTConfig

    def __init__(self, config: AlgorithmConfig, **kwargs: Any) -> None:
        from tgpo_ray.teachers import TraceData

        config.check()
        section = cast(SFTConfig, config).data
        self.data = TraceData.read(config, section, section.max_tokens)  # before any actor starts
        super().__init__(config, **kwargs)

    def training_step(self) -> Metrics:
        training = self.config.training
        batch = self.data.batch(self.iteration, training.batch_size, self.config.learners.num_learners)
        num_tokens = sum(info.num_response_tokens for group in batch for info in group.infos)
        with self.timer("update"):
            self.learners.accumulate(batch, [np.zeros(len(group.infos)) for group in batch], SFTLoss())
            metrics = self.learners.step(num_tokens, self.learning_rate())
        return metrics | {"optimizer/lr": self.learning_rate(), "tokens/response": float(num_tokens)}

    @property
    def num_iterations(self) -> int:
        training = self.config.training
        return training.num_iterations or math.ceil(training.num_epochs * len(self.data) / training.batch_size)

    def learning_rate(self) -> float:
        """Linear warm-up over `warmup_ratio` of the steps, then constant or a half cosine to a twentieth."""
        training, step = self.config.training, self.iteration
        warmup = training.warmup_ratio * self.num_iterations
        if step < warmup:
            return training.lr * (step + 1) / (warmup + 1)
        if training.lr_schedule == "constant":
            return training.lr
        progress = (step - warmup) / max(1.0, self.num_iterations - warmup)
        return training.lr * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * progress)))

    def before_evaluation(self) -> None:
        """The runners are idle while SFT trains: they get the weights when they are asked."""
        if self.weights is not None:
            self.weights.sync()
