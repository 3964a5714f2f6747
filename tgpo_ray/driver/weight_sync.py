"""Learner weights to engines: one versioned interface."""

from __future__ import annotations

from tgpo_ray.env_runners import EnvRunnerGroup
from tgpo_ray.learners import LearnerGroup


class WeightSync:
    """Carries the learners' weights to the runners and counts the versions."""

    def __init__(self, learners: LearnerGroup, runners: EnvRunnerGroup) -> None:
        self._learners, self._runners = learners, runners
        self.version = runners.weights_version

    def sync(self, version: int | None = None) -> int:
        """Send the learners' weights to every runner and return the new version, `version` or the last one plus one.

        A version never goes back, also where a restored run counts its updates again: an episode's
        `weights_version` names one set of weights only.
        """
        refs = self._learners.weight_buckets()
        self.version = max(self.version + 1, self._runners.weights_version + 1, version or 0)
        self._runners.sync_weights(self.version, refs)
        return self.version
