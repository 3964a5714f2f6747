from __future__ import annotations

import math
import pickle

import pytest

from tgpo_ray.guidance import CallableWeight, ConstantWeight, CosineDecay, GuidanceWeight, LinearDecay, as_schedule

PAPER = {"annealing": (2e-3, 1e-5, 200), "aggressive": (2e-2, 1e-4, 200), "shaping": (0.02, 1e-4, 200)}


@pytest.mark.parametrize(("weight", "decay", "last"), PAPER.values(), ids=PAPER.keys())
def test_published_schedules_start_at_their_weight_and_end_on_their_step(weight, decay, last):
    schedule = LinearDecay(weight, decay)
    assert schedule(0) == weight  # the first step sees it exactly
    assert schedule(100) == pytest.approx(weight / 2)
    assert schedule(last - 1) > 0.0 and schedule(last) == 0.0 and schedule(10 * last) == 0.0
    assert schedule.last_step() == last


def test_a_schedule_that_rounds_badly_still_ends_on_its_step():
    """0.3 - 3 x 0.1 is 5.6e-17 and 0.3 / 0.1 is 2.9999999999999996 in float64."""
    assert LinearDecay(0.3, 0.1)(3) == 0.0 and LinearDecay(0.3, 0.1).last_step() == 3
    for steps in range(1, 400):
        schedule = LinearDecay(2e-3, 2e-3 / steps)
        assert schedule.last_step() == steps and schedule(steps) == 0.0 and schedule(steps - 1) > 0.0


def test_last_step_rounds_up_between_steps():
    assert LinearDecay(1.0, 0.4).last_step() == 3
    assert LinearDecay(1.0, 5.0).last_step() == 1


def test_a_weight_that_never_falls_to_zero_has_no_last_step():
    assert ConstantWeight(2e-3)(10**6) == 2e-3 and ConstantWeight(2e-3).last_step() is None
    assert LinearDecay(1.0, 0.0).last_step() is None
    floor = LinearDecay(5e-3, 5e-5, minimum=1e-3)
    assert floor(1000) == 1e-3 and floor.last_step() is None


def test_a_weight_of_zero_never_needs_the_teacher():
    assert [s.last_step() for s in (ConstantWeight(0.0), LinearDecay(0.0, 0.1), CosineDecay(0.0, 5))] == [0, 0, 0]


def test_cosine_falls_from_its_weight_through_half_to_zero():
    schedule = CosineDecay(2.0, 100)
    assert schedule(0) == 2.0 and schedule(50) == pytest.approx(1.0)
    assert schedule(99) > 0.0 and schedule(100) == 0.0 and schedule(101) == 0.0 and schedule.last_step() == 100
    weights = [schedule(step) for step in range(101)]
    assert weights == sorted(weights, reverse=True)


def test_schedules_are_plain_data():
    for schedule in (ConstantWeight(0.1), LinearDecay(0.1, 0.01), CosineDecay(0.1, 3)):
        assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_numbers_functions_and_schedules_become_schedules():
    assert as_schedule(2e-3) == ConstantWeight(2e-3) and as_schedule(1)(7) == 1.0
    cosine = CosineDecay(1.0, 10)
    assert as_schedule(cosine) is cosine
    halving = as_schedule(lambda step: 0.5**step)
    assert halving(3) == 0.125 and halving.last_step() is None
    assert pickle.loads(pickle.dumps(CallableWeight(math.sqrt)))(4) == 2.0


def test_a_function_that_rounds_badly_ends_at_zero():
    falling = as_schedule(lambda step: 0.3 - 0.1 * step)  # 5.6e-17 at step 3
    assert 0.3 - 0.1 * 3 != 0.0 and falling(3) == 0.0 and falling(2) > 0.0
    assert as_schedule(lambda step: 0.1 * step - 0.3)(3) == 0.0  # -5.6e-17
    with pytest.raises(ValueError, match=r"weight at step 4 must be a finite number >= 0, got -0\.1"):
        falling(4)


def test_a_counted_weight_falls_step_by_step_and_says_when_the_teacher_may_go():
    weight = GuidanceWeight(LinearDecay(2e-2, 1e-4))
    assert weight.value == 2e-2 and not weight.is_over
    values = [weight.step() for _ in range(200)]
    assert values == [LinearDecay(2e-2, 1e-4)(step) for step in range(1, 201)]
    assert weight.value == 0.0 and weight.is_over
    assert not GuidanceWeight(0.1).is_over and GuidanceWeight(0.0).is_over
    assert not GuidanceWeight(lambda step: 0.0).is_over  # it may rise again


def test_a_restored_weight_continues_where_it_was():
    first = GuidanceWeight(CosineDecay(1.0, 50))
    for _ in range(17):
        first.step()
    second = GuidanceWeight(CosineDecay(1.0, 50))
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    assert second.value == first.value and second.step() == first.step()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantWeight(-1.0), "weight must be a finite number >= 0, got -1.0"),
        (lambda: LinearDecay(math.nan, 0.1), "weight must be a finite number >= 0, got nan"),
        (lambda: LinearDecay(1.0, -0.1), "decay must be a finite number >= 0, got -0.1"),
        (lambda: LinearDecay(1.0, 0.1, minimum=2.0), "minimum must be <= weight, got 2.0 > 1.0"),
        (lambda: CosineDecay(1.0, 0), "num_steps must be >= 1, got 0"),
        (lambda: ConstantWeight(1.0)(-1), "step must be >= 0, got -1"),
        (lambda: as_schedule("linear"), "a number or a function step -> weight, got 'linear'"),  # type: ignore[arg-type]
        (lambda: as_schedule(True), "a number or a function step -> weight, got True"),
        (lambda: GuidanceWeight(1.0).load_state_dict({"step": 3}), r"holds 'num_steps' alone, got \['step'\]"),
        (lambda: GuidanceWeight(1.0).load_state_dict({"num_steps": -3}), "step must be >= 0, got -3"),
    ],
)
def test_wrong_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
