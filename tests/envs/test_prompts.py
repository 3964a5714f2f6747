"""Prompt templates."""

from __future__ import annotations

import pytest

from tgpo_ray.envs.checkpoint_prompts import CHECKPOINT_PROMPTS, FIELD
from tgpo_ray.envs.prompts import STYLES, THINK_SYSTEM, PromptTemplate


def test_the_think_prompt_has_the_papers_structure():
    text = PromptTemplate("think").text("What is 6*7?")
    system, user, assistant = text.split("\n\n")
    assert system == THINK_SYSTEM
    assert user == "User: What is 6*7?"
    assert assistant == "Assistant: <think>\n"
    assert "<think>\n" in system and "\n</think>\n" in system and "\\boxed{}" in system
    assert "Thought" in system and "Solution" in system


def test_a_system_prompt_replaces_the_styles_own_and_an_empty_one_drops_it():
    assert PromptTemplate("think", "Be brief.").text("?") == "Be brief.\n\nUser: ?\n\nAssistant: <think>\n"
    assert PromptTemplate("think", "").text("?") == "User: ?\n\nAssistant: <think>\n"
    assert PromptTemplate("plain", "Be brief.").text("?").startswith("Be brief.\n\nProblem:\n?\n")


def test_the_plain_prompt_invites_a_base_model_to_go_on():
    text = PromptTemplate("plain").text("What is 6*7?")
    assert text.startswith("Problem:\nWhat is 6*7?\n") and text.endswith("Solution:\n") and "\\boxed{}" in text


def test_chat_gives_messages_and_the_others_none():
    messages = PromptTemplate("chat", "Be brief.").messages("What is 6*7?")
    assert messages is not None
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[1]["content"] == PromptTemplate("chat").text("What is 6*7?")
    assert len(PromptTemplate("chat").messages("?") or ()) == 1
    assert PromptTemplate("plain").messages("?") is None and PromptTemplate("think").messages("?") is None


def test_a_template_of_ones_own_keeps_its_other_braces():
    template = PromptTemplate("Q: {problem}\nAnswer in \\boxed{}.\nA: <think>\n")
    assert template.text("1+{1}") == "Q: 1+{1}\nAnswer in \\boxed{}.\nA: <think>\n"
    assert template.opens_thought


def test_only_prompts_that_end_in_think_open_the_thought():
    assert {style: PromptTemplate(style).opens_thought for style in STYLES} == {
        "plain": False,
        "think": True,
        "chat": False,
        "qwen_math": False,
        "r1": True,
        "prime_zero": False,
    }


@pytest.mark.parametrize("style", CHECKPOINT_PROMPTS)
def test_the_prompt_of_a_checkpoint_is_text_with_the_problem_in_it_once(style):
    template = PromptTemplate(style)
    text = template.text("1+{1}")
    assert text.count("1+{1}") == 1 and FIELD not in text and template.messages("?") is None
    assert text == CHECKPOINT_PROMPTS[style].replace(FIELD, "1+{1}")


def test_the_prompt_of_a_qwen_checkpoint_is_what_its_chat_template_makes():
    assert PromptTemplate("qwen_math").text("1+1?") == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_unknown_style_names_the_nearest():
    with pytest.raises(ValueError, match=r"got 'thnik'; did you mean 'think'\?"):
        PromptTemplate("thnik")
