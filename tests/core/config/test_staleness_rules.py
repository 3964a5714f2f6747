"""The rules of sampling ahead of the learners: which keys fit each other."""

from __future__ import annotations

import pytest

from tgpo_ray.algorithms import TGPOConfig, TrOPDConfig


def tgpo() -> TGPOConfig:
    return TGPOConfig().environment("tgpo/Math-v0").models(path="org/policy").teachers(path="org/teacher")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            tgpo().env_runners(weight_update="in_flight"),
            "env_runners.weight_update: in_flight needs training.max_staleness >= 1, got 0: on-policy, nobody "
            "samples while weights change; raise max_staleness, or write between_batches",
        ),
        (
            tgpo().training(updates_per_iteration=1, max_staleness=2, old_logprobs="none"),
            "training.old_logprobs: none needs max_staleness 0, got 2: the policy that sampled is an earlier one; "
            "write sampler, learner or null",
        ),
        (
            tgpo().training(max_staleness=2).weight_sync(backend="nccl"),
            "weight_sync.backend: nccl sends weights while every engine waits for them, which needs "
            "training.max_staleness 0 or 1 and env_runners.weight_update between_batches; write object_store",
        ),
    ],
)
def test_a_broken_rule_says_value_rule_and_fix(config: TGPOConfig, message: str):
    assert config.problems() == [message]


def test_weights_that_are_taken_later_go_through_the_object_store():
    config = tgpo().training(max_staleness=2).env_runners(num_gpus_per_env_runner=1).learners(num_gpus_per_learner=1)
    assert config.resolved(gpus=True).weight_sync.backend == "object_store"
    assert config.training(max_staleness=1).resolved(gpus=True).weight_sync.backend == "nccl"


def test_prefixes_of_an_iteration_do_not_go_with_iterations_that_overlap():
    config = TrOPDConfig().environment("tgpo/Math-v0").models(path="org/policy").teachers(path="org/teacher")
    config.guidance(prefix_share=0.5).traces(path="traces.jsonl").env_runners(weight_update="in_flight")
    (problem,) = config.training(max_staleness=2).problems()
    assert problem.startswith(
        "env_runners.weight_update: in_flight needs guidance.prefix_share 0, got 0.5: the prefixes"
    )
