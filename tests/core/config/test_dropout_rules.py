"""`training.dropout`: for SFT, refused with the reason where the policy samples, and off unless asked for."""

from __future__ import annotations

from typing import Any

import pytest

from tgpo_ray.algorithms import GRPOConfig, SFTConfig
from tgpo_ray.config import known_algorithms, resolve_algorithm
from tgpo_ray.learners.building import learner_spec


@pytest.mark.parametrize("name", sorted(set(known_algorithms()) - {"SFT"}))
def test_dropout_is_refused_where_the_policy_samples(name: str):
    config: Any = resolve_algorithm(name)()
    config.training(dropout=True)
    assert any(
        line.startswith("training.dropout: must be false where the policy samples") for line in config.problems()
    )


def test_dropout_of_sft_reaches_the_learners_only_if_asked_for():
    config = SFTConfig().models(path="org/policy").data(path="traces.jsonl")
    assert not learner_spec(config.resolved(gpus=False)).dropout
    assert learner_spec(config.training(dropout=True).resolved(gpus=False)).dropout
    assert not any("dropout" in line for line in config.problems())


def test_no_method_has_dropout_by_default():
    assert not GRPOConfig().training.dropout
