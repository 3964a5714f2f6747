"""The tokens around a prompt: its beginning and end, the system text, and what environments are told of it."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.core.chat_templates import APPENDING, STRICT, chat_tokenizer
from tgpo_ray.env_runners.chat_turns import chat_turn_ids
from tgpo_ray.env_runners.prompt_tokens import prompt_ids, prompt_lengths
from tgpo_ray.env_runners.rollout import Rollout, check_one_problem, tell_prompt
from tgpo_ray.envs.format_gate import FormatGate
from tgpo_ray.envs.guess_number import GuessNumberEnv
from tgpo_ray.models import byte_level_tokenizer

BOS, EOS, SEP = "<bos>", "<eos>", "<sep>"


@cache
def bracketing_tokenizer(around: str) -> Any:
    """Bytes, with special tokens around what is encoded: `<bos> $A <eos>`."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level_tokenizer(["1+1=2 user"], 300)
    tokenizer.add_special_tokens({"bos_token": BOS, "eos_token": EOS, "sep_token": SEP})
    marks = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (BOS, EOS, SEP)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=around, special_tokens=marks)
    return tokenizer


def written(tokenizer: Any, prompt: str, **info: Any) -> str:
    return tokenizer.decode(prompt_ids(tokenizer, prompt, info))


@pytest.mark.parametrize(
    ("around", "prompt", "expected"),
    [
        (f"{BOS} $A", "1+1=", f"{BOS}1+1="),
        (f"{BOS} $A", f"{BOS}1+1=", f"{BOS}1+1="),  # a prompt that a chat template has rendered
        (f"{BOS} $A {EOS}", "1+1=", f"{BOS}1+1="),
        (f"{BOS} $A {EOS}", f"{BOS}1+1=", f"{BOS}1+1="),
        (f"$A {EOS}", "1+1=", "1+1="),
        (f"$A {SEP}", "1+1=", "1+1="),
        (f"$A {EOS}", f"1+1={EOS}", f"1+1={EOS}"),  # the prompt's own end stays
        ("$A", f"{BOS}1+1=", f"{BOS}1+1="),
        (f"{SEP} {BOS} $A", "1+1=", f"{SEP}{BOS}1+1="),
        (f"{BOS} $A {EOS}", "", BOS),
    ],
)
def test_a_prompt_has_one_beginning_and_no_end_that_the_tokenizer_appends(
    around: str, prompt: str, expected: str
) -> None:
    assert written(bracketing_tokenizer(around), prompt) == expected


@pytest.mark.parametrize("prefix", ["", BOS, BOS * 2])
def test_a_chat_has_one_beginning_whoever_writes_it(prefix: str) -> None:
    tokenizer = bracketing_tokenizer(f"{BOS} $A {EOS}")
    tokenizer.chat_template = prefix + "{% for m in messages %}{{ m.content }}{% endfor %}"
    found = written(tokenizer, "", messages=[{"role": "user", "content": "1+1="}])
    assert found == f"{BOS if prefix else ''}1+1="


DEFAULT_SYSTEM = (
    "{%- if messages[0].role != 'system' %}<|im_start|>system\nI am kind.<|im_end|>\n{% endif %}" + APPENDING
)
NO_SYSTEM = STRICT  # raises for a role that it does not know
USER = {"role": "user", "content": "1+1?"}
NONE = {"role": "system", "content": ""}


@pytest.mark.parametrize("template", [APPENDING, DEFAULT_SYSTEM, NO_SYSTEM])
def test_an_empty_system_prompt_means_none_under_any_template(template: str) -> None:
    tokenizer = chat_tokenizer(template)
    text = written(tokenizer, "", messages=[NONE, USER])
    assert "1+1?" in text and "I am kind" not in text
    if template != DEFAULT_SYSTEM:
        assert "system" not in text
        assert text == written(tokenizer, "", messages=[USER])


def test_an_empty_system_prompt_is_none_in_later_turns_too() -> None:
    tokenizer, turn = chat_tokenizer(NO_SYSTEM), [{"role": "user", "content": "No."}]
    empty = np.zeros(0, np.int32)
    with_none, without = (chat_turn_ids(tokenizer, [first, turn], empty) for first in ([NONE, USER], [USER]))
    assert with_none.tolist() == without.tolist()


# A turn has no end: the policy stops at the token that opens the next one.
OPENERS = """
{%- for message in messages %}{{- '<|' + message.role + '|>\n' + message.content }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}"""


@cache
def opening_tokenizer(template: str, *, special: bool) -> Any:
    from tokenizers import AddedToken

    tokenizer = byte_level_tokenizer(["user assistant tool observation"], 300)
    names = [f"<|{name}|>" for name in ("user", "assistant", "tool", "system", "observation")]
    tokenizer.add_tokens([AddedToken(name, special=special, normalized=False) for name in names])
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("role", ["user", "tool"])
def test_a_turn_that_ends_with_the_next_turns_opener_has_it_once(special: bool, role: str) -> None:
    tokenizer = opening_tokenizer(OPENERS, special=special)
    turns = [[USER], [{"role": role, "content": "No."}]]
    for said in (f"5<|{role}|>", "5", f"5<|{role}|>\n"):
        response = np.asarray(tokenizer.encode(said, add_special_tokens=False), np.int32)
        text = tokenizer.decode([*response, *chat_turn_ids(tokenizer, turns, response)])
        if not said.endswith("\n"):  # an opener within the response is the policy's own text
            assert text == f"5<|{role}|>\nNo.<|assistant|>\n"
        assert text.endswith(f"<|{role}|>\nNo.<|assistant|>\n")


def test_glms_own_template_has_the_observation_once() -> None:
    """GLM ends a turn that calls a tool with `<|observation|>`. The template is among those that TRL ships."""
    library = importlib.util.find_spec("trl")
    path = library and library.origin and Path(library.origin).with_name("chat_templates") / "glm4moe.jinja"
    if not path or not path.is_file():
        pytest.skip("trl and its templates are not at hand")
    tokenizer = opening_tokenizer(path.read_text(encoding="utf-8"), special=True)
    turns = [[USER], [{"role": "tool", "content": "2"}]]
    response = np.asarray(tokenizer.encode("\ncall<|observation|>", add_special_tokens=False), np.int32)
    text = tokenizer.decode([*response, *chat_turn_ids(tokenizer, turns, response)])
    assert text.count("<|observation|>") == 1 and "<|observation|>\n<tool_response>\n2" in text


@pytest.mark.parametrize("opening", ["<think>\n", "<think>", "<think>\n\n</think>\n\n", ""])
def test_environments_are_told_what_the_rendered_prompt_begins(opening: str) -> None:
    tokenizer = chat_tokenizer(APPENDING.replace("assistant\n' }}", "assistant\n' + opening }}"), opening=opening)
    env = GuessNumberEnv(prompt="chat")
    prompt, info = env.reset(seed=0, options={"index": 0})
    assert env.gate == FormatGate(None, None)  # nobody has rendered the chat
    tell_prompt([env], tokenizer, prompt_ids(tokenizer, prompt, info))
    assert env.gate == FormatGate(None, "".join(opening.split()))
    env.reset(seed=0, options={"index": 1})
    assert env.gate == FormatGate(None, None)


def test_an_environment_that_does_not_ask_is_told_nothing() -> None:
    import gymnasium

    tell_prompt([gymnasium.Env()], chat_tokenizer(APPENDING), np.asarray([1], np.int32))


def test_mates_with_one_problem_pass_and_others_are_named() -> None:
    chat = [USER]
    check_one_problem(
        [("1+1?", {"messages": chat}), ("1+1?", {"messages": list(chat)})], "my/Env-v0, problem 3, seed 9"
    )
    for other in (("2+2?", {"messages": chat}), ("1+1?", {"messages": [NONE]}), ("1+1?", {})):
        with pytest.raises(ValueError, match="my/Env-v0, problem 3, seed 9: the environment gave mate 1 of the group"):
            check_one_problem([("1+1?", {"messages": chat}), other], "my/Env-v0, problem 3, seed 9")


# ---- many prompts at once

TEXTS = ["1+1=", "", f"{BOS}1+1=", "1+1" * 50, f"1+1={EOS}", "an 😀 and \ud83d half of one", "a\n\nb "]


@pytest.mark.parametrize("around", [f"{BOS} $A", f"{BOS} $A {EOS}", f"$A {SEP}", f"{SEP} {BOS} $A", "$A"])
def test_a_batch_of_prompts_is_measured_as_each_alone(around: str) -> None:
    tokenizer = bracketing_tokenizer(around)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    chats = [{"messages": [NONE, {"role": "user", "content": text}]} for text in TEXTS]
    prompts = [(text, {}) for text in TEXTS] + [(text, chat) for text, chat in zip(TEXTS, chats, strict=True)]
    prompts = prompts[::2] + prompts[1::2]  # texts and chats mixed
    assert prompt_lengths(tokenizer, prompts) == [len(prompt_ids(tokenizer, *prompt)) for prompt in prompts]


def test_no_prompt_is_no_batch() -> None:
    assert prompt_lengths(bracketing_tokenizer("$A"), []) == []


# ---- half of a character, which JSON can spell: `"\\ud83d"`


@pytest.mark.parametrize(
    ("text", "whole"),
    [("a \ud83d b", "a \ufffd b"), ("\ude00", "\ufffd"), ("\ud83d\ude00", "😀"), ("😀 é", "😀 é"), ("plain", "plain")],
)
def test_half_of_a_character_is_replaced_wherever_text_becomes_tokens(text: str, whole: str) -> None:
    tokenizer = chat_tokenizer(APPENDING)
    message = {"role": "user", "content": text}
    assert written(tokenizer, text) == whole
    assert whole in written(tokenizer, "", messages=[message])
    assert whole in written(tokenizer, "", messages=[{**message, "content": whole, "parts": [text, {"x": text}]}])
    later = Rollout.begun(GuessNumberEnv(), {})
    assert tokenizer.decode(later.environment_ids(tokenizer, text)) == whole
    chat = Rollout.begun(GuessNumberEnv(), {"messages": [message]})
    chat.ids, chat.info = [np.zeros(0, np.int32)], {"messages": [message]}
    assert whole in tokenizer.decode(chat.environment_ids(tokenizer, ""))
