"""Weights that follow a run's metrics: the formula by hand, what they converge to, and a resume."""

from __future__ import annotations

import json
import math

import pytest

from tgpo_ray.guidance import AdaptiveSchedule, BalancedWeight, ConstantWeight, PlateauWeight


def norms(guidance: float, policy: float, success: float | None = None) -> dict[str, float]:
    figures = {"guidance/gradient_norm": guidance, "policy/gradient_norm": policy}
    return figures if success is None else figures | {"outcome/correct": success}


def test_balanced_is_its_formula():
    """r = .02/.1 = .2 and k = 2 (1 - .5) = 1: w = .5 (1/.2)^.3. The unit ratio .4 then becomes .9 .4 + .1 1.2 = .48."""
    schedule = BalancedWeight(0.5, k_0=2.0, eta=0.3, smoothing=0.9)
    assert schedule(0) == 0.5 and schedule.ratio is None and schedule.metrics() == {}
    schedule.observe(0, norms(0.02, 0.1, 0.5))
    first = 0.5 * 5.0**0.3
    assert schedule(1) == pytest.approx(first) and schedule.aim == 1.0
    schedule.observe(1, norms(0.12 * first, 0.1, 1.0))  # the average of success is .9 .5 + .1 = .55
    factor = (2.0 * 0.45 / (first * 0.48)) ** 0.3
    assert schedule(2) == pytest.approx(first * factor)
    assert schedule.metrics() == pytest.approx({"guidance/ratio": schedule(2) * 0.48, "guidance/ratio_aim": 0.9})


@pytest.mark.parametrize("start", [1e-3, 0.3, 50.0])
def test_balanced_finds_the_weight_of_its_ratio_from_anywhere_without_swinging_about_it(start):
    schedule = BalancedWeight(start, k_0=0.5)
    weights = []
    for step in range(60):
        schedule.observe(step, norms(0.4 * schedule(step), 0.1, 0.0))  # the ratio at weight 1 is 4
        weights.append(schedule(step))
    assert weights[-1] == pytest.approx(0.125, rel=1e-3)
    assert weights == sorted(weights, reverse=start > 0.125)


def test_balanced_fades_with_success_and_comes_back():
    schedule = BalancedWeight(1.0, k_0=1.0, smoothing=0.5)
    for step in range(40):
        schedule.observe(step, norms(schedule(step), 1.0, 0.9))
    assert schedule(40) == pytest.approx(0.1, rel=1e-2)
    for step in range(40, 80):
        schedule.observe(step, norms(schedule(step), 1.0, 0.0))
    assert schedule(80) == pytest.approx(1.0, rel=1e-2)
    for step in range(80, 200):
        schedule.observe(step, norms(schedule(step), 1.0, 1.0))
    assert schedule(200) == schedule.minimum  # the aim is 0


def test_a_floor_stands_in_for_a_policy_without_advantages():
    schedule = BalancedWeight(1.0, k_0=1.0, floor=0.05)
    schedule.observe(0, norms(0.05, 0.0, 0.0))
    assert schedule.ratio == pytest.approx(1.0) and schedule(1) == pytest.approx(1.0)


def test_a_step_changes_the_weight_by_a_factor_of_two_at_most_and_within_its_bounds():
    schedule = BalancedWeight(1.0, eta=1.0, minimum=0.3, maximum=3.0)
    schedule.observe(0, norms(1e-6, 1.0, 0.0))
    assert schedule(1) == 2.0
    schedule.observe(1, norms(1e-6, 1.0, 0.0))
    assert schedule(2) == 3.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["guidance/gradient_norm", "policy/gradient_norm", "outcome/correct"])
def test_one_figure_that_is_none_does_not_stay_in_the_averages(name: str, bad: float):
    schedule, other = BalancedWeight(1.0), BalancedWeight(1.0)
    schedule.observe(0, norms(0.5, 1.0, 0.2) | {name: bad})
    for step in range(1, 40):
        schedule.observe(step, norms(0.5 * schedule(step), 1.0, 0.2))
        other.observe(step, norms(0.5 * other(step), 1.0, 0.2))
    assert schedule(40) == pytest.approx(other(40), rel=0.05)


def test_a_step_without_guidance_measures_nothing():
    schedule = BalancedWeight(1.0)
    schedule.observe(0, norms(0.0, 1.0, 0.5))
    assert schedule(1) == 1.0 and schedule.ratio is None and schedule.success == 0.5
    schedule.observe(1, {"evaluation/reward": 1.0})
    assert schedule(2) == 1.0


def test_plateau_falls_after_patience_evaluations_without_a_gain():
    schedule = PlateauWeight(1.0, factor=0.5, patience=2, threshold=0.01, minimum=0.2)
    weights = []
    for step, value in enumerate([0.1, 0.2, 0.205, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1]):
        schedule.observe(10 * step, {"evaluation/reward": value})
        weights.append(schedule(10 * step))
    # .205 is no gain of .01, with .2 the second without one; .3 is a gain; then two and two without
    assert weights == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2]


def test_plateau_hears_an_evaluation_once_and_nothing_but_its_figure():
    schedule = PlateauWeight(1.0, patience=1)
    schedule.observe(3, {"evaluation/reward": 0.5})
    for _ in range(3):
        schedule.observe(3, {"evaluation/reward": 0.1})  # someone evaluates the same weights again
    schedule.observe(4, {"reward": 0.0})
    schedule.observe(5, {"evaluation/reward": float("nan")})
    assert schedule(6) == 1.0
    schedule.observe(6, {"evaluation/reward": 0.1})
    assert schedule(7) == 0.5 and schedule.last_step() is None and PlateauWeight(0.0).last_step() == 0


def metrics_of(step: int) -> dict[str, float]:
    return norms(0.1 + 0.03 * (step % 7), 0.2, (step % 5) / 5) | {"evaluation/reward": (step % 4) / 4}


@pytest.mark.parametrize("kind", [BalancedWeight, PlateauWeight])
def test_a_resumed_schedule_goes_on_as_the_undisturbed_one(kind):
    whole, first = kind(1.0), kind(1.0)
    assert isinstance(whole, AdaptiveSchedule) and not isinstance(ConstantWeight(1.0), AdaptiveSchedule)
    for step in range(10):
        whole.observe(step, metrics_of(step))
        first.observe(step, metrics_of(step))
    resumed = kind(1.0)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step in range(10, 20):
        whole.observe(step, metrics_of(step))
        resumed.observe(step, metrics_of(step))
        assert resumed(step + 1) == whole(step + 1)  # to the last bit
    with pytest.raises(ValueError, match="the state of this schedule holds weight"):
        resumed.load_state_dict({"num_steps": 3})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BalancedWeight(0.0), "weight must be a finite number > 0, got 0"),
        (lambda: BalancedWeight(1.0, k_0=0.0), "k_0 must be a finite number > 0"),
        (lambda: BalancedWeight(1.0, floor=0.0), "floor must be a finite number > 0"),
        (lambda: BalancedWeight(1.0, eta=1.5), r"eta must be in \(0, 1\], got 1.5"),
        (lambda: BalancedWeight(1.0, smoothing=1.0), r"smoothing must be in \[0, 1\), got 1"),
        (lambda: BalancedWeight(1.0, maximum=0.5), r"weight must be in minimum..maximum = 1e-06..0.5, got 1"),
        (lambda: PlateauWeight(1.0, factor=1.0), r"factor must be in \(0, 1\), got 1"),
        (lambda: PlateauWeight(1.0, patience=0), "patience must be a whole number >= 1, got 0"),
        (lambda: PlateauWeight(1.0, minimum=2.0), "minimum must be <= weight, got 2.0 > 1.0"),
        (lambda: PlateauWeight(-1.0), "weight must be a finite number >= 0"),
    ],
)
def test_a_wrong_option_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
