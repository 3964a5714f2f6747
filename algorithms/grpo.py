"""GRPO. The defaults are the TGPO paper's baseline GRPO++: token mean over the batch, no KL, clip 0.2, entropy 0.001.

Options of `training` turn it into DeepSeekMath's GRPO, DAPO or SimpleRL-Zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tgpo_ray.config import named
from tgpo_ray.driver import OnPolicyAlgorithm

from .advantages import group_standardized
from .grpo_config import GRPOFamilyConfig
from .policy_options import PolicyOptions, policy_options
from .rewards import shaped_rewards
from .token_losses import PolicyLoss

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss

GRPOConfigT = TypeVar("GRPOConfigT", bound=GRPOFamilyConfig)


class GRPOConfig(GRPOFamilyConfig):
    """Configuration of GRPO."""

    algo_class = "tgpo_ray.algorithms.grpo:GRPO"

    algorithm: str = named("GRPO")


class GRPO(OnPolicyAlgorithm[GRPOConfigT]):
    """Group-relative policy optimization with a token mean.

        A_i = (R_i - mean_G R) / (std_G R + 1e-6)
        L   = 1/Z sum_it m_it [ max(-A_i r_it, -A_i clip(r_it, 1 - low, 1 + high)) - entropy_weight H_it ]

    GRPO++ of Teacher-Guided Policy Optimization. Groups of equal reward stay in the batch. Their advantage is 0, and
    under TGPO they still carry guidance. `training` has the rest of the family:

    - DeepSeekMath (2402.03300): `loss_aggregation: sequence, kl_weight: 0.04`;
    - DAPO (2503.14476): `clip_high: 0.28, dynamic_sampling: true, overlong_buffer: ...`, no entropy bonus. Each refused
      group is replaced by one other, while verl draws three times the batch at once;
    - SimpleRL-Zero (2503.18892): `kl_weight: 1e-4`, the rewards of its first recipe as `outcome_rewards`, and no
      critic.
    """

    config_class = GRPOConfig

    def rewards(self, group: SampledGroup) -> np.ndarray:
        """(G,) the rewards from which the advantages are computed."""
        return shaped_rewards(group.infos, self.config.training, self.config.env_runners.max_response_tokens)

    def advantages(self, groups: Sequence[SampledGroup]) -> list[np.ndarray]:
        return [group_standardized(self.rewards(group)) for group in groups]  # (G,) each

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        return PolicyLoss(**self.policy_options(groups))

    def policy_options(self, groups: Sequence[SampledGroup], *, clips: bool = True) -> PolicyOptions:
        """The options of the policy loss, with an entropy bonus that is a mean over tokens under every aggregation."""
        options = policy_options(self.config.training, clips=clips)
        options["entropy_weight"] *= self.per_token(groups)
        return options

    @property
    def needs_batch(self) -> bool:
        """Whether the entropy bonus is divided by a count of tokens that the step's denominator is not."""
        training = self.config.training
        return training.entropy_weight > 0.0 and training.loss_aggregation != "token"

    def per_token(self, groups: Sequence[SampledGroup]) -> float:
        """The factor that makes a sum over the batch's tokens their mean, whatever the step divides by.

        Under another aggregation than `token`, `groups` must be all of an update's (`needs_batch`).
        """
        if self.config.training.loss_aggregation == "token":
            return 1.0
        return self.denominator(groups) / max(1, self.num_trained_tokens(groups))

    def num_trained_tokens(self, groups: Sequence[SampledGroup]) -> int:
        """The number of tokens in the loss, by default those of the policy."""
        return sum(group.num_policy_tokens for group in groups)

    def denominator(self, groups: Sequence[SampledGroup]) -> float:
        """Z for a token mean, else the number of episodes, times `max_response_tokens` for the constant.

        The constant is no padded length, so a batch of short responses does not weigh more.
        """
        aggregation = self.config.training.loss_aggregation
        if aggregation == "token":
            return super().denominator(groups)
        num_episodes = float(sum(len(group.infos) for group in groups))
        return num_episodes * (self.config.env_runners.max_response_tokens if aggregation == "constant" else 1)
