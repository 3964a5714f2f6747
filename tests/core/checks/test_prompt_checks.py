"""What the driver finds out about environments before any actor starts, where a chat goes on over several turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.chat_templates import APPENDING, DROPPING, chat_tokenizer
from tgpo_ray.checks.prompts import check_environments
from tgpo_ray.config import ConfigError

MakeConfig = Callable[..., Any]


@pytest.fixture
def config_with(make_config: Any, tmp_path: Path) -> MakeConfig:
    """config_with(template, **kwargs of MathTool): a run with it, and with GuessNumber as a held-out chat."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"problem": "1+1?", "answer": "2"}) + "\n")

    def make(template: str | None, **kwargs: Any) -> Any:
        tokenizer = chat_tokenizer(template or "")
        if template is None:
            tokenizer.chat_template = None
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        return make_config(
            model={"tokenizer": str(tmp_path / "tokenizer")},
            env={"id": "tgpo/MathTool-v0", "kwargs": {"path": str(rows), **kwargs}},
            env_runners={"max_prompt_tokens": 2000},
            evaluation={"envs": [{"id": "tgpo/GuessNumber-v0", "kwargs": {"prompt": "chat"}}]},
        )

    return make


def problems(config: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_environments(config)
    return caught.value.problems


def test_a_template_that_appends_is_in_order(config_with: MakeConfig) -> None:
    for role in ("user", "tool", None):
        check_environments(config_with(APPENDING, prompt="chat", turn_role=role))


def test_a_template_that_drops_thoughts_is_refused_for_training_and_evaluation(config_with: MakeConfig) -> None:
    first, second = problems(config_with(DROPPING, prompt="chat"))
    assert first.startswith("envs.0 (tgpo/MathTool-v0): the tokenizer's chat template does not keep earlier thoughts")
    assert second.startswith("evaluation.envs.0 (tgpo/GuessNumber-v0): the tokenizer's chat template does not keep")


@pytest.mark.parametrize("kwargs", [{"prompt": "chat", "turn_role": "tool"}, {"prompt": "plain"},
                                    {"prompt": "chat", "max_turns": 1}])  # fmt: skip
def test_what_needs_no_rewritten_history_is_not_refused(config_with: MakeConfig, kwargs: dict[str, Any]) -> None:
    (only,) = problems(config_with(DROPPING, **kwargs))
    assert only.startswith("evaluation.envs.0")


def test_a_chat_without_a_chat_template_is_named(config_with: MakeConfig) -> None:
    (only,) = problems(config_with(None, prompt="plain"))
    assert only.startswith("evaluation.envs.0 (tgpo/GuessNumber-v0): the prompt is a chat, and the tokenizer has no")


def test_a_wrong_argument_is_named_with_the_nearest(config_with: MakeConfig) -> None:
    (only,) = problems(config_with(APPENDING, promt="chat"))
    assert only == "envs.0 (tgpo/MathTool-v0): kwargs have the unknown argument 'promt': did you mean 'prompt'?"
