"""Environments for the runners of test_env_runner_group: as a user's, each under an id with its module's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium

from tgpo_ray.envs import TextEnv

THREE_TURNS = f"{__name__}:ThreeTurns-v0"
NO_NUMBER = f"{__name__}:NoNumber-v0"
CHAT = f"{__name__}:ChatTurns-v0"
RAISING = f"{__name__}:RaisesLookup-v0"
COUNTED = f"{__name__}:Counted-v0"
DRIFTING = f"{__name__}:Drifting-v0"
ANSWERS = ("+1=", "+2=")
TEMPLATE = """
{%- for message in messages %}
{{- '=' + message.content + eos_token if message.role == 'assistant' }}
{{- '*' + message.content + ';' if message.role == 'user' }}
{{- '+' + message.content + ';' if message.role == 'tool' }}
{%- endfor %}
{{- '=' if add_generation_prompt }}"""


def write_chat_tokenizer(model: str, folder: Path) -> str:
    """The folder, with the tokenizer of `model` and a chat template in its characters: `*1;=` asks for a response."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


class ThreeTurns(TextEnv):
    """Answers the first two responses with `ANSWERS` and ends with the third; each is worth 1.0."""

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        self.turn = 0
        return f"{index}=", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        return (ANSWERS[self.turn - 1] if self.turn <= 2 else ""), 1.0, self.turn == 3, False, {}


class ChatTurns(TextEnv):
    """A chat of three turns: a user's number, a user's 7, a tool's 8."""

    def __init__(self, *, begun: bool = True) -> None:
        super().__init__()
        self.begun = begun  # whether the prompt is a message already

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        self.turn = 0
        return "1=", {"messages": [{"role": "user", "content": str(index)}]} if self.begun else {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        said = {"role": "user", "content": "7"} if self.turn == 1 else {"role": "tool", "content": "8"}
        return said["content"], 1.0, self.turn == 3, False, {"messages": [said]}


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


class Drifting(TextEnv):
    """Shows the next problem at each reset of any instance, whatever the index."""

    resets = 0

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        Drifting.resets += 1
        return f"{Drifting.resets % 10}=", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", 1.0, True, False, {}


class Counted(TextEnv):
    """Its reward says how many instances the process has made so far; no episode may begin in one that is in use."""

    instances = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).instances += 1
        self.in_use = False

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        assert not self.in_use, "one episode at a time"
        self.in_use = True
        return f"{index % 10}=", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.in_use = False
        return "", float(self.instances), True, False, {}


if "ThreeTurns-v0" not in gymnasium.registry:
    gymnasium.register("ThreeTurns-v0", entry_point=f"{__name__}:ThreeTurns")
    gymnasium.register("ChatTurns-v0", entry_point=f"{__name__}:ChatTurns")
    gymnasium.register("NoNumber-v0", entry_point=f"{__name__}:NoNumber")
    gymnasium.register("RaisesLookup-v0", entry_point=f"{__name__}:RaisesLookup")
    gymnasium.register("Counted-v0", entry_point=f"{__name__}:Counted")
    gymnasium.register("Drifting-v0", entry_point=f"{__name__}:Drifting")
