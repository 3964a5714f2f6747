"""What the driver finds out about environments before any actor starts, where a chat goes on over several turns."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.chat_templates import APPENDING, DROPPING, chat_tokenizer
from tgpo_ray.checks.prompts import check_environments, left_out
from tgpo_ray.config import ConfigError

MakeConfig = Callable[..., Any]
WORDLESS, HALVED = (f"tests.core.checks.flawed_envs:{name}-v0" for name in ("Wordless", "Halved"))


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


# ---- the lengths of all prompts


@pytest.fixture
def config_of_rows(make_config: Any, tmp_path: Path) -> MakeConfig:
    """config_of_rows(problems, **env_runners): a run on these rows, as training and as held-out set."""
    chat_tokenizer(APPENDING).save_pretrained(tmp_path / "tokenizer")

    def make(problems: list[str], **env_runners: Any) -> Any:
        rows = tmp_path / "rows.jsonl"
        rows.write_text("".join(json.dumps({"problem": text, "answer": "2"}) + "\n" for text in problems))
        env = {"id": "tgpo/Math-v0", "kwargs": {"path": str(rows), "prompt": "{problem}"}}
        return make_config(
            model={"tokenizer": str(tmp_path / "tokenizer")},
            env=env,
            env_runners={"max_prompt_tokens": 20, **env_runners},
            evaluation={"envs": [env], "max_problems": 3},
        )

    return make


# many letters in few tokens of the vocabulary, and few letters in many
SHORT, MANY_LETTERS, MANY_TOKENS = "1+1?", "user assistant system " * 4, "ÄÖÜ" * 4


def test_every_prompt_is_measured_and_those_that_are_too_long_are_told(config_of_rows: MakeConfig) -> None:
    texts = [SHORT] * 40
    texts[1], texts[10], texts[35] = MANY_TOKENS, MANY_LETTERS, MANY_TOKENS * 2
    first, second = problems(config_of_rows(texts, max_prompt_tokens=23))
    assert first == (
        "envs.0 (tgpo/Math-v0): 2 of 40 prompts have more than env_runners.max_prompt_tokens = 23 tokens, the longest "
        "48 (problem 35), the first is problem 1: raise it (the model's context permitting), leave such problems out "
        "of the data, or write env_runners.overlong_prompts: drop"
    )
    assert second.startswith("evaluation.envs.0 (tgpo/Math-v0): 1 of 3 prompts")  # its max_problems are 3


def test_with_drop_the_rows_are_left_out_and_printed(config_of_rows: MakeConfig, capsys: Any) -> None:
    config = config_of_rows([SHORT, MANY_TOKENS, SHORT, SHORT, MANY_TOKENS], overlong_prompts="drop")
    assert left_out(config, check_environments(config)) == [{1, 4}, {1}]
    assert capsys.readouterr().out.splitlines() == [
        "envs.0 (tgpo/Math-v0): 2 of 5 prompts have more than env_runners.max_prompt_tokens = 20 tokens, the longest "
        "24 (problem 1), the first is problem 1: left out",
        "evaluation.envs.0 (tgpo/Math-v0): 1 of 3 prompts have more than env_runners.max_prompt_tokens = 20 tokens, "
        "the longest 24 (problem 1), the first is problem 1: left out",
    ]
    assert left_out(config_of_rows([SHORT]), check_environments(config_of_rows([SHORT]))) == [set(), set()]


def test_a_data_set_of_overlong_prompts_alone_is_refused_with_drop_too(config_of_rows: MakeConfig) -> None:
    first, _ = problems(config_of_rows([MANY_TOKENS, MANY_TOKENS], overlong_prompts="drop"))
    assert first.startswith("envs.0 (tgpo/Math-v0): 2 of 2 prompts") and "nothing is left to sample" in first


@pytest.mark.parametrize("rule", ["refuse", "drop"])
def test_a_prompt_without_a_token_is_refused_with_its_problem(make_config: Any, rule: str) -> None:
    (only,) = problems(make_config(env={"id": WORDLESS, "kwargs": {}}, env_runners={"overlong_prompts": rule}))
    assert only.startswith(f"envs.0 ({WORDLESS}): problem 2 (1 in all): the prompt has no token")


def test_half_a_character_of_an_environment_ends_no_check(make_config: Any) -> None:
    check_environments(make_config(env={"id": HALVED, "kwargs": {}}))


@pytest.mark.slow
def test_forty_six_thousand_rows_are_measured_in_seconds(config_of_rows: MakeConfig) -> None:
    text = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. " * 2
    config = config_of_rows([f"{text} {number}" for number in range(46_000)], max_prompt_tokens=1000)
    start = time.monotonic()
    assert check_environments(config)[0].num_measured == 46_000
    assert time.monotonic() - start < 60.0
