"""Runners without actors, whose rounds of tasks are answered at once: what the driver makes of them is the test."""

from __future__ import annotations

from typing import Any

from tgpo_ray.env_runners.cursor import Cursor
from tgpo_ray.env_runners.group import EnvRunnerGroup
from tgpo_ray.env_runners.sampling_session import SamplingSession
from tgpo_ray.models.engine_spec import Sampling


class AnsweredRunners(EnvRunnerGroup):
    """Keeps what a session notes of each round."""

    busy_s, num_overlong = 0.0, 0
    session: Any  # (runners) -> SamplingSession

    def __init__(self) -> None:
        self.rounds: list[Any] = []

    def open_session(
        self, group_size: int, sampling: Sampling, seed: int, *, stays_open: bool = False
    ) -> SamplingSession:
        return self.session(self)

    def sleep(self) -> None:
        """There is no engine."""


def cursor() -> Cursor:
    return Cursor([None], [1.0], seed=0)  # problems 0, 1, 2, ...
