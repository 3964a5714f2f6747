"""The way back to the last checkpoint, after learners, or data that they need, were lost in an iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ray.exceptions import ObjectLostError

from tgpo_ray.learners import LearnersRestartedError

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig
    from tgpo_ray.driver.weight_sync import WeightSync
    from tgpo_ray.learners import LearnerGroup


class Recoverable(Protocol):
    """The part of an algorithm that goes back."""

    iteration: int
    num_recoveries: int
    has_runners: bool
    weights: WeightSync

    @property
    def config(self) -> AlgorithmConfig: ...

    @property
    def learner_groups(self) -> Sequence[LearnerGroup]: ...

    def training_step(self) -> dict[str, float]: ...

    def drop_rollouts(self) -> None: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def recover(self, error: LearnersRestartedError) -> None: ...


def surviving_step(algorithm: Recoverable) -> dict[str, float]:
    """Returns the metrics of a training step. It is repeated from the last checkpoint where learners die in it.

    Raises:
        LearnerError: `fault_tolerance.max_learner_restarts` is used up.
        ObjectLostError: data was lost more often than that.
    """
    while True:
        try:
            return algorithm.training_step()
        except LearnersRestartedError as error:
            algorithm.recover(error)
        except ObjectLostError as error:  # episodes or weights, with their node
            if algorithm.num_recoveries >= algorithm.config.fault_tolerance.max_learner_restarts:
                raise
            algorithm.recover(LearnersRestartedError(f"data was lost with its node ({type(error).__name__})"))


def go_back(algorithm: Recoverable, error: LearnersRestartedError | None, state: Mapping[str, Any]) -> None:
    """Bring learners, cursor and runners to the checkpoint with the driver's part `state`, or to the start.

    All groups of learners go back, also one that did not die: their weights belong together.
    """
    algorithm.drop_rollouts()
    while error is not None:
        algorithm.num_recoveries += 1
        print(f"{error}: going back from iteration {algorithm.iteration} to {state['iteration']}", flush=True)
        try:
            for group in algorithm.learner_groups:
                group.roll_back()
            algorithm.load_state_dict(state)
            if algorithm.has_runners:
                algorithm.weights.sync()
            error = None
        except LearnersRestartedError as again:  # they died once more; the number of restarts has its limit
            error = again
