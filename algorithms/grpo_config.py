"""`training` of GRPO and of the methods built on it: aggregation, clip, KL, importance correction, shaped rewards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tgpo_ray.config import NonNegativeFloat, OnPolicyConfig, Positive, PositiveFloat, Section, TrainingConfig, section

if TYPE_CHECKING:
    from tgpo_ray.config import RunView


class OutcomeRewards(Section):
    """`training.outcome_rewards`, the reward of each verdict in place of the environment's own reward.

    A failed verification (timeout, error) has the reward of a wrong answer.
    """

    correct: float = Field(default=1.0, description="Reward of a right answer.")
    wrong: float = Field(default=0.0, description="Reward of a readable answer that is wrong.")
    unparsable: float = Field(default=0.0, description="Reward of a response without a readable answer.")


# A method that trains on no reward lists these keys as `unread`.
REWARD_SHAPING = ("outcome_rewards", "zero_truncated", "overlong_buffer", "length_weight")


class GRPOTrainingConfig(TrainingConfig):
    """`training`, with the defaults of the paper's scripts: 300 iterations of 128 x 8, two updates each."""

    updates_per_iteration: Positive = Field(default=2, description="Optimizer steps that share an iteration's groups.")
    loss_aggregation: Literal["token", "sequence", "constant"] = Field(
        default="token",
        description="token: mean over the batch's tokens; sequence: each response's mean, then the mean of those; "
        "constant: each response's sum over max_response_tokens, then the mean (Dr. GRPO).",
    )
    dual_clip: Annotated[float, Field(gt=1)] | None = Field(
        default=None, description="Bound of the ratio where the advantage is negative; null: none."
    )
    kl_weight: NonNegativeFloat = Field(
        default=0.0, description="Weight of a KL to the frozen `reference`, which is started where this is above 0."
    )
    kl_estimator: Literal["k1", "k2", "k3"] = Field(
        default="k3", description="k1: log-ratio, as an advantage only; k2: reverse KL; k3: DeepSeekMath's."
    )
    kl_as: Literal["loss", "advantage"] = Field(
        default="loss", description="loss: a term of its own, k2 or k3; advantage: k1 taken off the advantages."
    )
    importance: Literal["none", "truncated", "sequence"] | None = Field(
        default=None,
        description="Importance weights against the sampler's log-probs, cut: of tokens or of the response; null: "
        "truncated where max_staleness > 0 and old_logprobs is sampler, else none.",
    )
    importance_cap: PositiveFloat = Field(default=2.0, description="Largest importance weight.")
    outcome_rewards: OutcomeRewards | None = Field(
        default=None, description="Rewards by verdict {correct, wrong, unparsable}; null: the environment's."
    )
    zero_truncated: bool = Field(default=False, description="A response cut by the token limit has reward 0.")
    overlong_buffer: Positive | None = Field(
        default=None, description="Last tokens before the limit in which the reward falls linearly by 1; null: none."
    )
    length_weight: NonNegativeFloat = Field(
        default=0.0, description="Weight of a reward for responses that are short within their group."
    )

    @property
    def needs_sampler_logprobs(self) -> bool:
        return super().needs_sampler_logprobs or self.resolved_importance() != "none"

    def resolved_importance(self) -> Literal["none", "truncated", "sequence"]:
        """Returns `importance`, or the value that null stands for."""
        if self.importance is not None:
            return self.importance
        if "importance" in self.unread:
            return "none"
        return "truncated" if self.max_staleness > 0 and self.resolved_old_logprobs() == "sampler" else "none"

    def fill_in(self, run: RunView, *, gpus: bool) -> None:
        super().fill_in(run, gpus=gpus)
        self.importance = self.resolved_importance()

    @property
    def uses_reference(self) -> bool:
        return self.kl_weight > 0.0

    def denominator_fact(self, episodes: int, tokens: int) -> str:
        if self.loss_aggregation == "constant":
            return f"{episodes:,} episodes of an update x max_response_tokens = {tokens:,}"
        if self.loss_aggregation == "sequence":
            return f"episodes of an update over all learners, {episodes:,}"
        return super().denominator_fact(episodes, tokens)

    def rules(self, run: RunView) -> Iterator[str]:
        """Yields a line with the reason for each combination that has no meaning."""
        yield from super().rules(run)
        if self.resolved_importance() == "none" and "importance" not in self.unread:
            yield from self.without_use("importance_cap", needs="training.importance truncated or sequence, got none")
        if self.kl_weight > 0.0:
            yield from self._kl_rules(run)
        limit = run.env_runners.max_response_tokens
        if self.overlong_buffer is not None and self.overlong_buffer >= limit:
            yield (
                f"training.overlong_buffer: must be < env_runners.max_response_tokens ({limit}), got "
                f"{self.overlong_buffer}: it is the last part of a response"
            )

    def _kl_rules(self, run: RunView) -> Iterator[str]:
        if self.kl_as == "loss" and self.kl_estimator == "k1":
            yield (
                "training.kl_estimator: k1 as a loss teaches nothing: its gradient does not contain the reference, and "
                "its expectation is 0; write k2 (reverse KL), k3 (forward KL), or kl_as: advantage"
            )
        if self.kl_as == "advantage" and self.kl_estimator != "k1":
            yield (
                f"training.kl_as: advantage with {self.kl_estimator} follows the gradient of no divergence: as an "
                "advantage k1 has that of the reverse KL; write kl_estimator: k1, or kl_as: loss"
            )
        temperature = run.env_runners.temperature
        if temperature != 1.0:
            yield (
                f"training.kl_weight: needs env_runners.temperature 1.0, got {temperature:g}: the reference's "
                "log-probs are those of temperature 1, the policy's are not; write kl_weight: 0, or temperature: 1.0"
            )


class GRPOFamilyConfig(OnPolicyConfig):
    """Configuration of a method whose `training` has GRPO's keys."""

    training: GRPOTrainingConfig = section(GRPOTrainingConfig, "Batch shape, optimizer, policy loss.")
