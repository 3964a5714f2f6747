"""The learning rate of SFT over its steps."""

from __future__ import annotations

import pytest

from tests.algorithms.driver_parts import config_of, without_actors


def rate(step: int, **training: object) -> float:
    """Of 100 steps, of which 10 are warm-up, at lr 1."""
    options = {"num_iterations": 100, "lr": 1.0, "warmup_ratio": 0.1, **training}
    config = config_of("SFT", data={"path": "traces.jsonl"}, training=options)
    return without_actors(config, iteration=step).learning_rate()


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_rate_rises_linearly_over_the_warm_up(schedule):
    assert [rate(step, lr_schedule=schedule) for step in (0, 4, 9)] == pytest.approx([1 / 11, 5 / 11, 10 / 11])
    assert rate(10, lr_schedule=schedule) == pytest.approx(1.0)


@pytest.mark.parametrize(("end", "halfway"), [(0.1, 0.55), (0.05, 0.525), (0.0, 0.5), (1.0, 1.0)])
def test_a_cosine_falls_through_the_middle_to_its_end(end, halfway):
    assert rate(55, lr_schedule="cosine", lr_end=end) == pytest.approx(halfway)
    # one step of 90 before the end: 1 - cos(pi / 90) is 6e-4
    assert rate(99, lr_schedule="cosine", lr_end=end) == pytest.approx(end, abs=4e-4)


def test_the_default_is_constant_and_a_cosine_ends_at_a_tenth():
    assert rate(99) == 1.0
    assert rate(99, lr_schedule="cosine") == pytest.approx(0.1, abs=4e-4)
