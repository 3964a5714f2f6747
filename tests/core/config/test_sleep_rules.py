"""Runner, teacher and learner on parts of one card, and engines that sleep while the learners work."""

from __future__ import annotations

from typing import Any

import pytest

from tgpo_ray.algorithms import GRPOConfig, PRIMEConfig, TGPOConfig
from tgpo_ray.config import ConfigError, check_resources
from tgpo_ray.env_runners.building import engine_spec
from tgpo_ray.learners.building import card_share
from tgpo_ray.learners.card import CardShare


def sleeper(runner: float | None = 0.6, learner: float | None = 0.4, **training: Any) -> GRPOConfig:
    config = GRPOConfig().environment("tgpo/Math-v0").models(path="org/policy").training(**training)
    return config.env_runners(sleep=True, num_gpus_per_env_runner=runner).learners(num_gpus_per_learner=learner)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            sleeper(runner=0.0),
            "env_runners.sleep: needs env_runners.num_gpus_per_env_runner between 0 and 1, got 0: a CPU's memory is "
            "not mapped and unmapped; write a fraction, or false",
        ),
        (
            sleeper(runner=None),
            "env_runners.sleep: needs env_runners.num_gpus_per_env_runner between 0 and 1, got null: it shares a card "
            "with a learner; write a fraction, or false",
        ),
        (
            sleeper(learner=1.0),
            "env_runners.sleep: needs learners.num_gpus_per_learner between 0 and 1, got 1: it shares a card with a "
            "learner; write a fraction, or false",
        ),
        (
            sleeper(max_staleness=1),
            "env_runners.sleep: needs training.max_staleness 0, got 1: engines that sample ahead work while the "
            "learners do",
        ),
    ],
)
def test_engines_that_cannot_sleep_are_refused_with_the_reason(config: GRPOConfig, message: str):
    assert config.problems() == [message]


def test_a_method_with_two_groups_of_learners_is_refused():
    prime = PRIMEConfig().environment("tgpo/Math-v0").models(path="org/policy")
    prime = prime.env_runners(sleep=True, num_gpus_per_env_runner=0.5).learners(num_gpus_per_learner=0.2)
    assert any("needs one group of learners, PRIME has 2" in problem for problem in prime.problems())


def test_a_learner_works_on_what_the_engine_leaves_and_rests_in_its_own_part():
    config = sleeper().resolved(gpus=True)
    assert engine_spec(config).sleep and engine_spec(config).card_share == 0.6
    assert card_share(config) == CardShare(working=1.0, resting=0.4)
    awake = config.env_runners(sleep=False)
    assert not engine_spec(awake).sleep
    assert card_share(awake) == CardShare(working=0.4, resting=0.4)
    assert card_share(GRPOConfig().resolved(gpus=False)) == CardShare()


def shared(runner: float, teacher: float, learner: float) -> TGPOConfig:
    config = TGPOConfig().environment("tgpo/Math-v0").models(path="org/policy").teachers(path="org/teacher")
    config = config.env_runners(num_gpus_per_env_runner=runner).learners(num_gpus_per_learner=learner)
    return config.teachers(num_gpus_per_replica=teacher)


def test_the_parts_of_a_card_add_up_to_one_at_most():
    one_card = {"CPU": 8.0, "GPU": 1.0}
    check_resources(shared(0.5, 0.2, 0.3), one_card)
    with pytest.raises(ConfigError, match=r"resources: 1.1 GPUs needed"):
        check_resources(shared(0.5, 0.2, 0.4), one_card)


def test_parts_that_no_card_has_room_for_are_refused_although_their_sum_is_there():
    two_cards = {"CPU": 8.0, "GPU": 2.0}
    with pytest.raises(ConfigError) as caught:
        check_resources(shared(0.6, 0.6, 0.6), two_cards)
    assert caught.value.problems == [
        "resources: no card has 0.6 left for teachers.default (learners 1 x 0.6, env_runners 1 x 0.6, "
        "teachers.default 1 x 0.6 on 2 cards): an actor's part is one of one card, whose parts add up to 1 at most; "
        "change num_gpus_per_*"
    ]
    check_resources(shared(0.6, 0.4, 0.6), two_cards)
    check_resources(shared(1.0, 0.5, 0.5), two_cards, [{"CPU": 4.0, "GPU": 1.0}] * 2)
    # a whole card for one and two halves of another: but the runner's two cards lie on different nodes
    split = shared(2.0, 0.5, 0.5).env_runners(tensor_parallel_size=2)
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 3.0}]
    check_resources(split, {"CPU": 8.0, "GPU": 4.0}, nodes)
    taken = split.learners(num_learners=3)  # 2.5 cards with the teacher, of which the node with 3 has one and a half
    with pytest.raises(ConfigError, match=r"no card has 0\.5 left for"):
        check_resources(taken, {"CPU": 8.0, "GPU": 4.0}, [{"CPU": 8.0, "GPU": 3.0}, {"CPU": 1.0, "GPU": 0.5}])
