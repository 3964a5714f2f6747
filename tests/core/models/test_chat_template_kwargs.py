"""`chat_template_kwargs`: which names are taken, and that every rendering gets the values."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest

from tests.core.chat_templates import APPENDING, chat_tokenizer
from tgpo_ray.models.chat_template_kwargs import RESERVED, template_kwargs_problems, template_variables
from tgpo_ray.models.tokenizer import with_template_values

THINKING = (
    APPENDING + "{%- if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
)
CHAT = [{"role": "user", "content": "1+1?"}]


def problems(values: dict[str, Any], template: str | None = THINKING) -> list[str]:
    tokenizer = chat_tokenizer(template or "")
    tokenizer.chat_template = template
    return list(template_kwargs_problems("model.chat_template_kwargs", values, tokenizer))


def test_a_name_that_the_template_reads_is_taken():
    assert problems({"enable_thinking": False}) == []
    assert problems({}, template=None) == []


def test_a_name_that_the_template_does_not_read_is_refused_with_those_that_it_reads():
    assert problems({"enable_thought": False}) == [
        "model.chat_template_kwargs.enable_thought: the tokenizer's chat template does not read it, so False would "
        "change nothing; it reads: enable_thinking"
    ]


@pytest.mark.parametrize(
    "name", ["tools", "add_generation_prompt", "messages", "tokenize", "eos_token", "chat_template"]
)
def test_a_name_that_the_package_or_the_tokenizer_sets_is_refused(name: str):
    (only,) = problems({name: 1})
    assert only == f"model.chat_template_kwargs.{name}: is set by the package or the tokenizer, got 1; leave it out"


def test_values_for_a_tokenizer_without_a_template_are_refused():
    assert problems({"enable_thinking": False}, template=None) == [
        "model.chat_template_kwargs: the tokenizer has no chat template that could read enable_thinking; leave it out"
    ]


def test_the_reserved_names_are_all_that_transformers_takes_itself():
    from transformers import PreTrainedTokenizerBase

    parameters = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
    assert parameters - {"self", "kwargs"} <= RESERVED


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{% set a = b | default(1) %}{{ a }}", {"b"}),
        ("{% set a = a if a is defined else 1 %}{{ a }}", {"a"}),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m }}{% endfor %}", {"messages"}),
        ("{%- generation -%}{{ a }}{%- endgeneration %}", {"a"}),
        ({"default": "{{ a }}", "tool_use": "{{ b }}"}, {"a", "b"}),
    ],
)
def test_the_names_that_a_template_reads(template: Any, names: set[str]):
    tokenizer = chat_tokenizer("")
    tokenizer.chat_template = template
    assert template_variables(tokenizer) == names


def test_a_template_that_is_no_plain_jinja_is_not_judged():
    assert problems({"anything": 1}, template="{% tag_of_its_own %}") == []


def test_every_rendering_gets_the_values_and_the_tokenizer_stays_as_it_was():
    from tgpo_ray.env_runners.prompt_tokens import prompt_ids, prompt_lengths

    tokenizer = chat_tokenizer(THINKING)
    tokenizer.chat_template = THINKING
    bound = with_template_values(tokenizer, {"enable_thinking": False})
    info = {"messages": CHAT}
    found = prompt_ids(bound, "", info)
    assert tokenizer.decode(found).endswith("</think>\n\n")
    assert prompt_lengths(bound, [("", info)]) == [len(found)]
    assert "think" not in tokenizer.decode(prompt_ids(tokenizer, "", info))
    assert len(bound) == len(tokenizer) and bound.get_vocab() == tokenizer.get_vocab()
    assert bound("1+1")["input_ids"] == tokenizer("1+1")["input_ids"]
    assert pickle.loads(pickle.dumps(bound)).apply_chat_template(CHAT, tokenize=False).startswith("<|im_start|>user")
    assert with_template_values(tokenizer, {}) is tokenizer


def test_later_turns_get_them_too():
    from tgpo_ray.env_runners.chat_turns import chat_turn_ids

    tokenizer = chat_tokenizer(APPENDING)
    mood = "(' ' + mood if mood and message.role == 'user' else '')"
    tokenizer.chat_template = APPENDING.replace("message.role +", f"message.role + {mood} +")
    bound = with_template_values(tokenizer, {"mood": "12345"})
    added = chat_turn_ids(bound, [CHAT, CHAT], np.zeros(0, np.int32))
    assert "<|im_start|>user 12345" in tokenizer.decode(added)
    assert "12345" not in tokenizer.decode(chat_turn_ids(tokenizer, [CHAT, CHAT], np.zeros(0, np.int32)))
