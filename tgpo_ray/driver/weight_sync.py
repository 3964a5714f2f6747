"""WeightSync, the versioned path of the learners' weights to the engines."""

from __future__ import annotations

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
        refs = self._learners.weight_buckets()
        self.version = max(self.version + 1, self._runners.weights_version + 1, version or 0)
        self._runners.sync_weights(self.version, refs)
        return self.version
