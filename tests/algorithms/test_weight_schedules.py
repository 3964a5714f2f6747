"""`guidance.schedule` from the configuration to the algorithm, its checkpoint, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.algorithms.driver_parts import config_of, without_actors
from tgpo_ray.config import ConfigError
from tgpo_ray.guidance import BalancedWeight, PlateauWeight

TEACHER = {"teacher": {"path": "teacher"}}
HELD_OUT = {"evaluation": {"every": 5, "envs": [{"id": "tgpo/Arithmetic-v0"}]}}
HERE = "tests.algorithms.test_weight_schedules"


def halving(step: int, *, every: int = 10) -> float:
    return 0.5 ** (step // every)


def negative(step: int) -> float:
    return -1.0


def falling(step: int) -> float:
    return 1.0 - 0.01 * step


def failing(step: int) -> float:
    return 1.0 / (3 - step)


class Silent:
    """Observes, and keeps nothing for a checkpoint."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, step: int) -> float:
        return self.weight

    def last_step(self) -> int | None:
        return None

    def observe(self, step: int, metrics: Any) -> None:
        self.weight = -1.0


class Rising:
    """A schedule of one's own that observes: the weight rises by `by` at each reward above 0."""

    def __init__(self, weight: float, *, by: float = 1.0) -> None:
        self.weight, self.by = weight, by

    def __call__(self, step: int) -> float:
        return self.weight

    def last_step(self) -> int | None:
        return None

    def observe(self, step: int, metrics: Any) -> None:
        self.weight += self.by * (metrics.get("reward", 0.0) > 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def load_state_dict(self, state: Any) -> None:
        self.weight = state["weight"]


def algorithm(name: str = "TGPO", /, *, iteration: int = 0, **guidance: Any) -> Any:
    built = without_actors(config_of(name, **TEACHER, **HELD_OUT, guidance=guidance), iteration=iteration)
    return built


def test_schedules_are_built_with_weight_and_options():
    balanced = algorithm(schedule="balanced", weight=0.5, schedule_options={"k_0": 2.0}).schedule
    assert isinstance(balanced, BalancedWeight) and balanced(0) == 0.5 and balanced.k_0 == 2.0
    plateau = algorithm("RKL", schedule="plateau", weight=0.5, schedule_options={"patience": 3}).schedule
    assert isinstance(plateau, PlateauWeight) and plateau.patience == 3
    own = algorithm(schedule=f"{HERE}:halving", weight=0.8, schedule_options={"every": 2}).schedule
    assert [own(step) for step in (0, 1, 2, 4)] == [0.8, 0.8, 0.4, 0.2]
    rising = algorithm(schedule=f"{HERE}:Rising", weight=0.8, schedule_options={"by": 0.1}).schedule
    assert isinstance(rising, Rising) and rising(0) == 0.8


def test_an_adaptive_schedule_observes_iterations_and_travels_in_the_checkpoint():
    first = algorithm(schedule=f"{HERE}:Rising", weight=1.0)
    first.has_runners = False
    first._observe(0, {"reward": 1.0})
    first._observe(1, {"reward": 0.0})
    assert first.guidance_weight == 2.0
    state = json.loads(json.dumps(first.state_dict()))
    assert state["schedule"] == {"name": f"{HERE}:Rising", "state": {"weight": 2.0}}
    resumed = algorithm(schedule=f"{HERE}:Rising", weight=1.0)
    resumed.load_state_dict(state)
    assert resumed.guidance_weight == 2.0


def test_a_changed_schedule_begins_anew_and_says_so(capsys):
    balanced = algorithm(schedule="balanced", weight=0.5)
    balanced.schedule.weight = 3.0  # a run that goes back to a checkpoint without this state
    balanced.load_state_dict({"iteration": 7, "schedule": {"name": "plateau", "state": {}}})
    assert balanced.guidance_weight == 0.5 and balanced.iteration == 7
    assert "no state of schedule balanced" in capsys.readouterr().out
    constant = algorithm(schedule="constant")
    constant.load_state_dict({"iteration": 7})
    assert "schedule" not in constant.state_dict() and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        ({"schedule": "blanced"}, "guidance.schedule: expected 'linear', .*; did you mean 'balanced'"),
        ({"schedule": "balanced", "schedule_options": {"k0": 1.0}}, "unknown option 'k0'; did you mean 'k_0'"),
        ({"schedule": "balanced", "schedule_options": {"eta": 3.0}}, r"schedule balanced: eta must be in \(0, 1\]"),
        ({"schedule": "balanced", "schedule_options": {"eta": "x"}}, "guidance.schedule_options: schedule balanced: "),
        ({"schedule": "balanced", "normalization": "sequence"}, "guidance.schedule: balanced compares means over tok"),
        ({"schedule": "balanced", "decay": 0.1}, "guidance.decay: belongs to schedule linear, got 0.1 with balanced"),
        ({"schedule": "constant", "schedule_options": {"eta": 1.0}}, "schedule constant has none, got {'eta': 1.0}"),
        ({"schedule": "no_such:thing"}, "guidance.schedule: cannot import 'no_such:thing'"),
        ({"schedule": f"{HERE}:TEACHER"}, "is no function, got dict"),
        ({"schedule": "balanced", "schedule_options": {"k_0": "1"}}, "k_0 must be of type float, got '1'"),
        ({"schedule": "plateau", "schedule_options": {"patience": True}}, "patience must be of type int, got True"),
        ({"schedule": f"{HERE}:Silent"}, "Silent needs observe, state_dict and load_state_dict, whose state"),
        ({"schedule": f"{HERE}:falling"}, r"weight at step 101 must be a finite number >= 0"),
        ({"schedule": f"{HERE}:failing"}, "ZeroDivisionError: float division by zero"),
        ({"schedule": f"{HERE}:negative"}, "weight at step 0 must be a finite number >= 0"),
    ],
)
def test_a_wrong_schedule_ends_the_configuration_with_its_key(guidance, message):
    with pytest.raises(ConfigError, match=message):
        config_of("TGPO", **TEACHER, guidance=guidance).check(files=False)


def test_a_weight_that_turns_negative_on_the_way_ends_the_run():
    risen = algorithm(schedule=f"{HERE}:Rising", schedule_options={"by": -5.0}, weight=1.0)
    risen.schedule.observe(1, {"reward": 1.0})
    with pytest.raises(ValueError, match="weight at step 0 must be a finite number >= 0, got -4"):
        _ = risen.guidance_weight


def test_balanced_is_of_methods_that_have_both_gradients():
    with pytest.raises(
        ConfigError, match=r"guidance\.schedule: expected 'linear', 'constant', 'cosine', 'plateau' or an"
    ):
        config_of("RKL", **TEACHER, guidance={"schedule": "balanced"})


def test_plateau_needs_evaluations_on_the_way():
    with pytest.raises(ConfigError, match=r"guidance\.schedule: plateau follows evaluations"):
        config_of("TGPO", **TEACHER, guidance={"schedule": "plateau"}).check(files=False)
    config = config_of("TGPO", **TEACHER, **HELD_OUT, guidance={"schedule": "plateau"})
    assert not [line for line in config.problems(files=False) if "plateau" in line]


@pytest.mark.parametrize("metric", ["evaluation/acuracy", "accuracy", 3, None, "evaluation/AIME24/accuracy"])
def test_plateau_is_refused_with_a_figure_that_no_run_writes(metric: Any):
    guidance = {"schedule": "plateau", "schedule_options": {"metric": metric}}
    with pytest.raises(ConfigError, match=r"guidance\.schedule_options\.metric: no run with these"):
        config_of("TGPO", **TEACHER, **HELD_OUT, guidance=guidance).check(files=False)
