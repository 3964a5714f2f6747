"""The section `reporting`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tgpo_ray.config.sections import Section
from tgpo_ray.config.values import Positive


class ReportingConfig(Section):
    """`reporting`: who hears of the metrics beside the run's folder."""

    tensorboard: bool = Field(default=False, description="Write TensorBoard events.")
    wandb: str | None = Field(default=None, description="Weights & Biases project; null: not used.")
    samples_every: Positive = Field(default=20, description="Iterations between samples of episodes.")
    token_episodes: Annotated[int, Field(ge=0, le=64)] = Field(
        default=4, description="Episodes of such an iteration that are kept token by token, <= 64; 0: none."
    )
    progress: bool = Field(default=True, description="Show the live progress line.")

    def shows(self, iteration: int, num_iterations: int) -> bool:
        """Whether samples of this iteration, from 1 on, are kept: of the first, the last and every k-th."""
        return iteration % self.samples_every == 0 or iteration in (1, num_iterations)

    def shows_tokens(self, iteration: int, num_iterations: int) -> bool:
        """Whether some of them are kept token by token."""
        return self.token_episodes > 0 and self.shows(iteration, num_iterations)
