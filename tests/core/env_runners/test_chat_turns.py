"""What a chat template adds between two responses, and which templates cannot append."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, cast
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.core.chat_templates import APPENDING, DROPPING, END, STRICT, chat_tokenizer
from tgpo_ray.env_runners.chat_turns import chat_turn_ids, why_refused
from tgpo_ray.env_runners.prompt_tokens import prompt_ids
from tgpo_ray.env_runners.rollout import Rollout, RunningGroup
from tgpo_ray.envs.guess_number import GuessNumberEnv
from tgpo_ray.episode import ORIGIN_ENVIRONMENT, ORIGIN_POLICY, Task
from tgpo_ray.models.engine_spec import Completion

PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
NOTHING = np.zeros(0, np.int32)


def turn(content: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def ids_of(tokenizer: Any, text: str) -> np.ndarray:
    return np.asarray(tokenizer.encode(text, add_special_tokens=False), np.int32)


def added(tokenizer: Any, *turns: Any, response: str = "") -> str:
    return tokenizer.decode(chat_turn_ids(tokenizer, [PROMPT, *turns], ids_of(tokenizer, response)))


def test_a_turn_ends_the_policys_and_opens_the_next() -> None:
    expected = "<|im_end|>\n<|im_start|>user\nNo.<|im_end|>\n<|im_start|>assistant\n"
    assert added(chat_tokenizer(APPENDING), turn("No."), response="2") == expected


def test_what_the_policy_wrote_of_its_end_is_not_written_again() -> None:
    tokenizer = chat_tokenizer(APPENDING)
    expected = "\n<|im_start|>user\nNo.<|im_end|>\n<|im_start|>assistant\n"
    assert added(tokenizer, turn("No."), response="2<|im_end|>") == expected
    # another end of sequence ends no turn of this template
    assert added(tokenizer, turn("No."), response="2<|endoftext|>") == END + expected


def test_an_end_after_a_line_break_is_found_by_its_token() -> None:
    tokenizer, prompt = chat_tokenizer(STRICT), turn("1+1?")
    for response, expected in (
        ("2<|im_end|>", "[user]No.\n<|im_end|>[assistant]"),
        ("2\n", "<|im_end|>[user]No.\n<|im_end|>[assistant]"),
        ("2", "\n<|im_end|>[user]No.\n<|im_end|>[assistant]"),
    ):
        found = chat_turn_ids(tokenizer, [prompt, turn("No.")], ids_of(tokenizer, response))
        assert tokenizer.decode(found) == expected


@pytest.mark.parametrize("role", ["user", "tool", "system"])
def test_every_role_of_the_template_can_speak(role: str) -> None:
    assert f"<|im_start|>{role}\n4<|im_end|>" in added(chat_tokenizer(APPENDING), turn("4", role))


def test_several_messages_are_one_turn() -> None:
    two = [*turn("4", "tool"), *turn("Go on.")]
    expected = "<|im_start|>tool\n4<|im_end|>\n<|im_start|>user\nGo on.<|im_end|>\n<|im_start|>assistant\n"
    assert added(chat_tokenizer(APPENDING), two).endswith(expected)


@pytest.mark.parametrize("template", [APPENDING, DROPPING])
def test_turns_appended_one_by_one_are_the_conversation_as_the_template_renders_it(template: str) -> None:
    tokenizer = chat_tokenizer(template)
    messages, turns = list(PROMPT), [PROMPT]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    for number in range(4):
        response, answer = f"guess {number}", turn(f"not {number}", "tool")
        messages += [{"role": "assistant", "content": response}, *answer]
        turns.append(answer)
        text += f"{response}{END}" + tokenizer.decode(chat_turn_ids(tokenizer, turns, ids_of(tokenizer, END)))
    assert text == tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def test_a_template_that_drops_earlier_thoughts_is_refused_and_for_tools_it_is_not() -> None:
    tokenizer = chat_tokenizer(DROPPING)
    with pytest.raises(
        ValueError, match=r"does not keep earlier thoughts .* of role 'user' follows.*: use prompt: plain"
    ):
        chat_turn_ids(tokenizer, [PROMPT, turn("No.")], NOTHING)
    assert chat_turn_ids(tokenizer, [PROMPT, turn("No.", "tool")], NOTHING).size
    # a user after the tool has the thoughts before the tool dropped, too
    with pytest.raises(ValueError, match="does not keep earlier thoughts"):
        chat_turn_ids(tokenizer, [PROMPT, turn("No.", "tool"), turn("No.")], NOTHING)


def test_a_thought_that_the_template_opens_is_the_policys_only_way_to_speak() -> None:
    tokenizer = chat_tokenizer(DROPPING, opening="<think>\n")
    assert why_refused(tokenizer, PROMPT, "tool") == ""
    assert "does not keep earlier thoughts" in why_refused(tokenizer, PROMPT, "user")
    keeping = chat_tokenizer(DROPPING.replace("'</think>' in content", "false"))
    assert why_refused(keeping, PROMPT, "user") == ""


def test_roles_that_the_template_does_not_take_are_named() -> None:
    tokenizer = chat_tokenizer(STRICT)
    with pytest.raises(ValueError, match="cannot render the roles system, user: roles must alternate"):
        chat_turn_ids(tokenizer, [PROMPT, turn("No.")], NOTHING)
    with pytest.raises(ValueError, match="roles user, assistant, tool"):
        chat_turn_ids(tokenizer, [turn("1+1?"), turn("No.", "tool")], NOTHING)


def test_a_role_that_the_template_leaves_out_without_a_word_is_refused() -> None:
    knowing = chat_tokenizer(APPENDING.replace("messages %}", "messages if message.role != 'tool' %}"))
    assert why_refused(knowing, PROMPT, "user") == ""
    assert "leaves the message out when a turn of role 'tool' follows" in why_refused(knowing, PROMPT, "tool")


def test_a_thought_that_the_template_has_closed_is_not_looked_for() -> None:
    closing = chat_tokenizer(DROPPING, opening="<think>\n\n</think>\n\n")
    with pytest.raises(ValueError, match="does not keep earlier responses"):  # the empty thought goes
        chat_turn_ids(closing, [PROMPT, turn("No.")], NOTHING)
    response = "('<think></think>' if message.role == 'assistant' else '') + message.content"
    template = APPENDING.replace("assistant\n' }}", "assistant\n<think></think>' }}")
    always = chat_tokenizer(template.replace("message.content | trim", response))
    assert why_refused(always, PROMPT, "user") == ""


LIBRARY = importlib.util.find_spec("trl")


@pytest.mark.parametrize(
    ("name", "user", "tool"),
    [
        ("qwen2_5", "", ""),
        ("qwen3", "does not keep earlier thoughts", ""),
        ("qwen3_training", "", ""),  # TRL's own, which keeps thoughts
        ("qwen3_instruct_2507", "", ""),
        ("deepseek_r1_distill_training", "", ""),  # opens a thought, and takes responses with the opening in them
        ("llama3_1", "", ""),
        ("gemma3", "", "cannot render the roles"),
        ("phi3", "", "leaves the message out"),
        ("deepseek_r1_distill", "does not keep earlier thoughts", "does not keep earlier thoughts"),
    ],
)
def test_well_known_templates_are_judged_as_they_are(name: str, user: str, tool: str) -> None:
    """Those that TRL ships: it is among the development packages."""
    if LIBRARY is None or LIBRARY.origin is None:
        pytest.skip("trl is not installed: its templates are not at hand")
    path = Path(LIBRARY.origin).with_name("chat_templates") / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"this version of trl has no {path.name}")
    tokenizer = chat_tokenizer(path.read_text(encoding="utf-8"))
    for role, expected in (("user", user), ("tool", tool)):
        found = why_refused(tokenizer, turn("1+1?"), role)
        assert (expected in found) if expected else (found == "")


@pytest.mark.parametrize("template", ["{{ messages[-1].content }}", "{{ messages | length }}"])
def test_a_template_that_leaves_responses_out_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="leaves out responses of the policy"):
        chat_turn_ids(chat_tokenizer(template), [PROMPT, turn("No.")], NOTHING)


def test_a_refusal_is_known_before_the_first_turn() -> None:
    assert why_refused(chat_tokenizer(APPENDING), PROMPT, "user") == ""
    assert "does not keep earlier thoughts" in why_refused(chat_tokenizer(DROPPING), PROMPT, "user")
    assert "roles must alternate" in why_refused(chat_tokenizer(STRICT), PROMPT, "user")


def played(tokenizer: Any, env: GuessNumberEnv, *responses: str) -> RunningGroup:
    """The rollout of these responses, as a runner makes it."""
    prompt, info = env.reset(seed=0, options={"index": 0})
    rollout = Rollout.begun(env, info)
    for response in responses:
        ids = ids_of(tokenizer, response)
        rollout.add_completion(Completion(ids, -np.ones(len(ids), np.float32), "stop"))
        observation = rollout.step(response.removesuffix(END))
        if not rollout.done:
            rollout.add_environment_tokens(rollout.environment_ids(tokenizer, observation))
    return RunningGroup(Task(0, 0, seed=0), prompt, prompt_ids(tokenizer, prompt, info), [rollout])


def test_a_conversation_has_every_token_under_its_author() -> None:
    tokenizer = chat_tokenizer(APPENDING)
    env = GuessNumberEnv(high=9, max_turns=9, prompt="chat")
    number = int(env.problem(0, env.np_random).answer)
    group = played(tokenizer, env, f"a\\boxed{{10}}{END}", "\\boxed{0}", f"\\boxed{{{number}}}{END}")
    (episode,) = group.finish("tgpo/GuessNumber-v0", 0, with_logprobs=True).episodes
    assert episode.reward == 1.0
    by = {
        origin: tokenizer.decode(episode.response_ids[episode.origin == origin])
        for origin in (ORIGIN_POLICY, ORIGIN_ENVIRONMENT)
    }
    assert by[ORIGIN_POLICY] == f"a\\boxed{{10}}{END}\\boxed{{0}}\\boxed{{{number}}}{END}"
    hint = "<|im_start|>user\nMy number is {} than {}. Guesses left: {}.<|im_end|>\n<|im_start|>assistant\n"
    # the first response ended by its token, the second by a stop string
    assert by[ORIGIN_ENVIRONMENT] == "\n" + hint.format("lower", 10, 8) + f"{END}\n" + hint.format("higher", 0, 7)
    assert episode.old_logprobs is not None
    assert (episode.old_logprobs[episode.origin == ORIGIN_ENVIRONMENT] == 0).all()
    assert episode.response_ids[episode.turn_ends - 1].tolist() == [
        tokenizer.eos_token_id, ids_of(tokenizer, "}")[-1], tokenizer.eos_token_id
    ]  # fmt: skip


def test_the_conversation_reads_as_the_template_renders_it() -> None:
    tokenizer = chat_tokenizer(APPENDING)
    group = played(tokenizer, GuessNumberEnv(high=9, max_turns=9, prompt="chat"), *[f"\\boxed{{0}}{END}"] * 2)
    (rollout,) = group.rollouts
    first, second, third = rollout.turns
    said = {"role": "assistant", "content": "\\boxed{0}"}
    expected = tokenizer.apply_chat_template(
        [*first, said, *second, said, *third], add_generation_prompt=True, return_dict=False
    )
    assert [*group.prompt_ids.tolist(), *np.concatenate(rollout.ids).tolist()] == expected


@pytest.mark.parametrize(("prompt", "messages", "shown"), [([], turn("No."), "was none"), (PROMPT, [], "empty list")])
def test_messages_that_cannot_be_appended_are_refused(prompt: Any, messages: Any, shown: str) -> None:
    rollout = Rollout(cast(Any, None), [prompt] if prompt else [], info={"messages": messages})
    with pytest.raises(ValueError, match=f"{shown}.*: a chat begins with info"):
        rollout.environment_ids(chat_tokenizer(APPENDING), "No.")


def test_a_tokenizer_without_a_chat_template_is_named() -> None:
    from tgpo_ray.models import byte_level_tokenizer

    with pytest.raises(ValueError, match="has no chat template: use prompt: plain"):
        prompt_ids(byte_level_tokenizer(["1"], 260), "1+1?", {"messages": PROMPT})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=8), st.text(max_size=20))
@example([200], "")  # a line feed, which also follows the end of a turn
def test_no_sampled_id_and_no_text_of_the_environment_is_lost(response: list[int], text: str) -> None:
    tokenizer = chat_tokenizer(APPENDING)
    found = tokenizer.decode(chat_turn_ids(tokenizer, [PROMPT, turn(text)], np.asarray(response, np.int32)))
    text = normalize("NFC", text.strip())  # as Qwen's tokenizer reads it
    assert found.startswith(END) and found.endswith(f"<|im_start|>user\n{text}{END}\n<|im_start|>assistant\n")
