"""Seconds of stages against hand-computed and published figures, and the split of the cards."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from tests.paths import YAML
from tgpo_ray.algorithms import SFTConfig, TGPOConfig
from tgpo_ray.config import AlgorithmConfig, ConfigError
from tgpo_ray.costs import (
    Estimate,
    Rates,
    Work,
    estimate,
    fits,
    parse_cluster,
    prompt_work,
    rollout_work,
    shape_of,
    teacher_work,
    unshared_tokens,
)
from tgpo_ray.costs.memory import TrainingState
from tgpo_ray.costs.work import learner_work

PRESET = YAML / "paper" / "7b" / "tgpo_annealing.yaml"
PEAK = Rates(compute=1.0)


def estimated(cluster: str, *overrides: str, **means: Any) -> Estimate:
    return estimate(AlgorithmConfig.from_yaml(PRESET, overrides), parse_cluster(cluster), **means)


def llama2(size: str) -> Any:
    shapes = {
        "7b": (4096, 11008, 32, 32, 32),
        "13b": (5120, 13824, 40, 40, 40),
        "70b": (8192, 28672, 80, 64, 8),
    }
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    facts = dict(zip(names, shapes[size], strict=True))
    return shape_of(size, {}, {size: facts | {"model_type": "llama", "vocab_size": 32000}})


# Tokens a second that LMDeploy reports on A100-80GB cards (docs/en/benchmark/a100_fp16.md, v0.1.0a1): model, cards,
# sequences, prompt, response.
REPORTED = [
    ("7b", 1, 1, 1, 128, 100.02),
    ("7b", 1, 1, 128, 2048, 98.92),
    ("7b", 1, 16, 128, 2048, 1010.62),
    ("7b", 1, 32, 128, 2048, 1462.12),
    ("7b", 1, 64, 1, 128, 4154.81),
    ("7b", 1, 64, 128, 2048, 1852.06),
    ("13b", 1, 1, 1, 128, 57.49),
    ("13b", 1, 32, 1, 128, 1667.5),
    ("13b", 1, 16, 128, 2048, 605.88),
    ("70b", 4, 1, 1, 128, 33.94),
    ("70b", 4, 64, 1, 128, 1425.79),
    ("70b", 4, 64, 128, 2048, 1391.8),
]


@pytest.mark.parametrize(("model", "cards", "sequences", "prompt", "response", "reported"), REPORTED)
def test_the_published_rates_predict_what_others_measured_on_a_gpu(
    model: str, cards: int, sequences: int, prompt: int, response: int, reported: float
):
    card = parse_cluster("8xA100-80GB").card
    size = {"prompt": prompt, "number_bytes": 2}
    work = rollout_work(llama2(model), [response] * sequences, slots=sequences, **size)
    read = prompt_work(llama2(model), groups=sequences, group_size=1, unshared=0, **size)
    seconds = work.seconds(card, card.efficiency.rollout, cards) + read.seconds(card, card.efficiency.teacher, cards)
    assert sequences * response / seconds == pytest.approx(reported, rel=0.3)


def test_sampling_counts_what_each_token_reads():
    shape = replace(llama2("7b"), layers=0)  # no attention and no cache
    work = rollout_work(shape, [3, 5], prompt=10, slots=8, number_bytes=2)
    assert work.flops == 8 * 2 * (shape.trunk + shape.head)
    read = prompt_work(shape, groups=3, group_size=4, prompt=40, unshared=8, number_bytes=2)
    assert read.flops == 3 * (40 + 3 * 8) * 2 * shape.trunk  # three members read what the whole blocks do not hold
    assert [unshared_tokens(prompt, 32) for prompt in (1, 32, 33, 64, 200)] == [1, 32, 1, 32, 8]
    # 5 steps read the weights; 3 of them the cache of two sequences, 2 that of one
    read = (22 + 24 + 26) + (14 + 15)
    logits = 8 * 32000 * 4 * 8
    assert work.bytes == 5 * 2 * (shape.trunk + shape.head) + read * shape.kv_bytes(1, 2) + logits
    assert (work.calls, work.items) == (5, 8)
    # two places for one: the second begins when the first has ended
    assert rollout_work(shape, [3, 5], prompt=10, slots=1, number_bytes=2).calls == 8


def test_sampling_reads_keys_and_values_of_all_tokens_before():
    shape = llama2("7b")
    each = shape.kv_bytes(1, 2)
    with_cache = rollout_work(shape, [2, 3], prompt=10, slots=8, number_bytes=2)
    # steps read 2 * (10 + 1), 2 * (10 + 2), then 10 + 3 tokens
    without = 3 * 2 * (shape.trunk + shape.head) + 5 * 32000 * 4 * 8
    assert with_cache.bytes == pytest.approx(without + each * (22 + 24 + 13))


def test_a_teacher_reads_each_prompt_once_and_a_learner_three_times_a_forward_pass():
    shape = replace(llama2("7b"), layers=0)
    n, head = shape.trunk, shape.head
    teacher = teacher_work(shape, groups=4, group_size=8, prompt=100, unshared=4, response=200, number_bytes=2)
    assert teacher.flops == 2 * n * (4 * (100 + 7 * 4) + 32 * 200) + 2 * head * 32 * 200
    state = TrainingState(1, "torch", 0, "none", half=True)
    size = {"sequences": 32, "prompt": 100, "response": 200, "useful": 1.0, "micro_batches": 1, "updates": 1}
    plain = learner_work(shape, state, **size, checkpointing=False, extra_passes=0)
    assert plain.flops == 6 * n * 32 * 300 + 6 * head * 32 * 200
    more = learner_work(shape, state, **size, checkpointing=True, extra_passes=1)
    assert more.flops == (6 + 2 + 2) * n * 32 * 300 + 8 * head * 32 * 200


def test_seconds_are_work_over_what_the_stage_reaches():
    card = parse_cluster("1xH100").card
    work = Work(flops=card.flops, bytes=card.bandwidth, activation_bytes=card.bandwidth, calls=10, items=100)
    assert work.seconds(card, Rates(0.5, 0.25, 3.0, 0.01, 0.001)) == pytest.approx(2 + 4 + 3 + 0.1 + 0.1)
    assert work.seconds(card, Rates(0.5, 0.25, 3.0, 0.01, 0.001), num_cards=2) == pytest.approx(4.5 + 0.2)
    assert (work + work).seconds(card, PEAK) == pytest.approx(2 * work.seconds(card, PEAK))


def test_the_paper_preset_on_eight_cards():
    found = estimated("8xH100-80GB")
    assert [(actor.kind, actor.count, actor.cards) for actor in found.actors] == [
        ("learner", 2, 1.0), ("env runner", 2, 1.0), ("teacher default", 2, 2.0)
    ]  # fmt: skip
    assert found.cards(found.counts) == 8
    assert all(fits(actor, actor.count, found.cluster) for actor in found.actors)
    timing = found.timing(found.counts)
    assert timing.iteration > max(timing.stages) + timing.sync  # two updates: learners begin when all is written
    assert timing.waits()[timing.slowest] == min(timing.waits())
    # the teacher's weights alone fill cards of 40 GB
    small = estimated("8xA100-40GB")
    assert [fits(actor, actor.count, small.cluster) for actor in small.actors] == [True, False, False]


def test_with_one_update_and_with_staleness_learners_work_while_others_write():
    one, stale = estimated("8xH100", "training.updates_per_iteration=1"), replace(estimated("8xH100"), max_staleness=1)
    for found in (one, stale):
        timing = found.timing(found.counts)
        assert timing.iteration == pytest.approx(max(timing.stages) + timing.sync)


def test_more_cards_are_never_slower_and_no_split_is_faster_than_the_one_that_is_named():
    before = float("inf")
    for number in (4, 5, 6, 8, 12, 16):
        found = estimated(f"{number}xH200")
        counts = found.balanced()
        assert counts is not None
        seconds = found.timing(counts).iteration
        assert seconds <= before
        before = seconds
        assert found.cards(counts) <= number
        for other in itertools.product(range(1, 5), repeat=3):
            feasible = all(fits(actor, n, found.cluster) for actor, n in zip(found.actors, other, strict=True))
            if feasible and found.cards(other) <= number:
                assert seconds <= found.timing(other).iteration + 1e-9


def test_longer_responses_move_cards_to_the_runners():
    short, long = (estimated("16xH200", mean_response=mean).balanced() for mean in (200.0, 8000.0))
    assert short is not None and long is not None
    times = [estimated("16xH200", mean_response=mean).timing((4, 4, 1)) for mean in (200.0, 8000.0)]
    assert times[0].stages[1] < times[1].stages[1]
    assert long[2] <= long[1]  # a teacher only reads: it needs the fewest


def test_a_split_that_cannot_be_is_none():
    assert estimated("2xA100-40GB").balanced() is None


@pytest.mark.parametrize(
    ("overrides", "means", "said"),
    [
        (
            [],
            {"mean_response": 9000.0},
            r"--mean-response: must be above 0 and at most .*max_response_tokens = 8192, got 9000",
        ),
        ([], {"mean_prompt": 0.0}, "--mean-prompt: must be above 0"),
        (["env_runners.num_gpus_per_env_runner=0"], {}, "env_runners: has no part of a card"),
        (["model.path=no/such"], {}, "no/such: its shape is not known here"),
    ],
)
def test_what_cannot_be_estimated_is_refused(overrides: list[str], means: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        estimated("8xH100", *overrides, **means)


def test_methods_without_rollouts_are_refused():
    with pytest.raises(ConfigError, match="samples nothing"):
        estimate(SFTConfig().models(path="Qwen/Qwen3-8B"), parse_cluster("8xH100"))


def test_a_served_teacher_takes_no_card_and_teachers_share_the_groups_of_their_environments():
    served = ["teacher={path: Qwen/Qwen3-8B, backend: remote, url: 'http://host:1'}"]
    assert [actor.kind for actor in estimated("8xH100", *served).actors] == ["learner", "env runner"]
    config = TGPOConfig().environment("a/B-v0", weight=3.0).add_environment("a/C-v0", teacher="other")
    config = config.models(path="Qwen/Qwen3-8B").teachers(path="Qwen/Qwen3-8B").teachers("other", path="Qwen/Qwen3-8B")
    found = estimate(config, parse_cluster("8xH200"))
    first, second = (actor.seconds(1) for actor in found.actors[2:4])
    assert first == pytest.approx(3 * second)


def test_half_a_card_is_half_as_fast():
    whole, half = estimated("8xH200"), estimated("8xH200", "learners.num_gpus_per_learner=0.5")
    link_free = [found.actors[0].seconds(2) for found in (whole, half)]
    assert link_free[1] > 1.5 * link_free[0]
