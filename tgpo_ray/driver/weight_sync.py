"""WeightSync, the versioned path of the learners' weights to the engines."""

from __future__ import annotations

from typing import Any

from tgpo_ray.env_runners import EnvRunnerGroup
from tgpo_ray.learners import LearnerGroup


class WeightSync:
    """The path of the learners' weights to the runners, with a count of the versions."""

    def __init__(self, learners: LearnerGroup, runners: EnvRunnerGroup) -> None:
        self._learners, self._runners = learners, runners
        self.version = runners.weights_version

    def sync(self, version: int | None = None) -> int:
        """Returns the new version, `version` or the last one plus one, after every runner has the weights.

        A version never goes back, also where a restored run counts its updates again. So an episode's
        `weights_version` names only one set of weights.
        """
        self.load(self.take(version))
        return self.version

    def take(self, version: int | None = None) -> tuple[int, list[Any]]:
        """Returns the learners' weights under a new version, for `load`."""
        refs = self._learners.weight_buckets()
        self.version = max(self.version + 1, self._runners.weights_version + 1, version or 0)
        return self.version, refs

    def load(self, update: tuple[int, list[Any]]) -> None:
        """Returns after every runner has these weights. No runner may be sampling."""
        self._runners.sync_weights(*update)

    def offer(self) -> None:
        """Has every runner load the learners' weights between two steps of its engine, and returns at once."""
        self._runners.offer_weights(*self.take())
