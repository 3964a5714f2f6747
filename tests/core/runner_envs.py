"""Environments for the runners of test_env_runner_group: as a user's, each under an id with its module's name."""

from __future__ import annotations

from typing import Any

import gymnasium

from tgpo_ray.envs import TextEnv

THREE_TURNS = f"{__name__}:ThreeTurns-v0"
NO_NUMBER = f"{__name__}:NoNumber-v0"
RAISING = f"{__name__}:RaisesLookup-v0"
ANSWERS = ("+1=", "+2=")


class ThreeTurns(TextEnv):
    """Answers the first two responses with `ANSWERS` and ends with the third; each is worth 1.0."""

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        self.turn = 0
        return f"{index}=", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        return (ANSWERS[self.turn - 1] if self.turn <= 2 else ""), 1.0, self.turn == 3, False, {}


class NoNumber(TextEnv):
    """Its reward is not a number."""

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        return "1=", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", float("nan"), True, False, {}


class RaisesLookup(TextEnv):
    """Cannot take the response that it gets."""

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        return "1=", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        raise LookupError("no such answer")


if "ThreeTurns-v0" not in gymnasium.registry:
    gymnasium.register("ThreeTurns-v0", entry_point=f"{__name__}:ThreeTurns")
    gymnasium.register("NoNumber-v0", entry_point=f"{__name__}:NoNumber")
    gymnasium.register("RaisesLookup-v0", entry_point=f"{__name__}:RaisesLookup")
