"""The stages of an iteration and of a whole run, one after the other. The driver holds no tokens."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.driver.algorithm import Algorithm, Metrics
    from tgpo_ray.driver.evaluation import evaluate, sampling_seed
    from tgpo_ray.driver.handover import Handover
    from tgpo_ray.driver.on_policy import OnPolicyAlgorithm, OnPolicyConfigT
    from tgpo_ray.driver.run import fit
    from tgpo_ray.driver.token_values import GroupTokens, learners_logprobs, placed, with_values
    from tgpo_ray.driver.trial import TRIALS, Trial, demand_of, reserving_nothing, run_trial, trainable

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "algorithm": ["Algorithm", "Metrics"],
        "evaluation": ["evaluate", "sampling_seed"],
        "handover": ["Handover"],
        "on_policy": ["OnPolicyAlgorithm", "OnPolicyConfigT"],
        "run": ["fit"],
        "token_values": ["GroupTokens", "learners_logprobs", "placed", "with_values"],
        "trial": ["TRIALS", "Trial", "demand_of", "reserving_nothing", "run_trial", "trainable"],
    },
)
