"""Later turns of a chat: what the model's chat template writes between two responses of the policy.

Only that difference is encoded and appended; what the policy sampled stays as it was sampled. So a template must be
append-only. Some are not: Qwen3's drops the thoughts of earlier turns once a user speaks again, and what the policy
was trained on would not be what the template shows it later. Those are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tgpo_ray.models import Tokenizer

Message = Mapping[str, Any]
"""One chat message: `role` and `content`."""

OPEN_THOUGHT, CLOSE_THOUGHT = "<think>", "</think>"
# What the policy may have written: the template's rendering of its real words is never used, only of these.
MARK = "[response {} of the policy]"
AFTER_THOUGHT = f"[thought {{}}]\n{CLOSE_THOUGHT}\n\n{MARK}"
THOUGHT = f"{OPEN_THOUGHT}\n{AFTER_THOUGHT}"
TURN = "[message {} of the environment]"


def chat_turn_ids(tokenizer: Tokenizer, turns: Sequence[Sequence[Message]], response_ids: np.ndarray) -> np.ndarray:
    r"""(T,) int32: what the environment's last turn adds to the conversation under the tokenizer's chat template.

    For ChatML `<|im_end|>\n<|im_start|>user\n...<|im_end|>\n<|im_start|>assistant\n`, without what the policy has
    already written of its turn's end: its sampled end-of-sequence token, mostly; nothing where a stop string ended it.

    Args:
        turns: the environment's messages, one list a turn: the prompt's, then each turn's up to this one. Between two
            of them the policy has spoken.
        response_ids: (R,) what the policy sampled before this turn.

    Raises:
        ValueError: the template cannot render the turn, or would rewrite what came before it.
    """
    delta, closing = _delta_and_closing(tokenizer, turns)
    ids, end = (tokenizer.encode(text, add_special_tokens=False) for text in (delta, closing))
    return np.asarray(ids[_num_written(end, ids, response_ids, tokenizer.all_special_ids) :], np.int32)


def why_refused(tokenizer: Tokenizer, prompt: Sequence[Message], role: str) -> str:
    """Why conversations that begin with `prompt`, and go on in turns of `role`, are refused; "" where they are not."""
    turn = [{"role": role, "content": "[a turn of the environment]"}]
    try:
        chat_turn_ids(tokenizer, [prompt, turn], np.zeros(0, np.int32))
        chat_turn_ids(tokenizer, [prompt, turn, turn], np.zeros(0, np.int32))
    except ValueError as error:
        return str(error)
    return ""


def _delta_and_closing(tokenizer: Tokenizer, turns: Sequence[Sequence[Message]]) -> tuple[str, str]:
    """The text of the last turn, and the part of it that ends the policy's own turn."""
    opening = _rendered(tokenizer, turns[:1], MARK).rstrip()
    contents = [MARK] if opening.endswith(CLOSE_THOUGHT) else [THOUGHT]  # a thought is what templates drop
    if opening.endswith(OPEN_THOUGHT):  # some want the opening in the message, some do not
        contents.append(AFTER_THOUGHT)
    for content in contents:
        after = _rendered(tokenizer, turns, content)
        if _keeps(tokenizer, turns, content, after, contents[-1]):
            break
    else:
        what = "responses" if contents == [MARK] else "thoughts (<think>...</think>)"
        raise ValueError(_refusal(turns, f"does not keep earlier {what} as they were written"))
    _check_all_speak(tokenizer, turns, content)
    spoken = [*_messages(turns[:-1], content), _response(content, len(turns) - 1)]
    ended = _applied(tokenizer, spoken, add_generation_prompt=False)
    # what follows the response also where nobody speaks after it, is the end of the policy's turn
    tail, delta = ended[_end(ended, turns) :], after[_end(after, turns) :]
    shared = next((i for i, (a, b) in enumerate(zip(tail, delta, strict=False)) if a != b), min(len(tail), len(delta)))
    return delta, delta[:shared]


def _keeps(tokenizer: Tokenizer, turns: Sequence[Sequence[Message]], content: str, after: str, written: str) -> bool:
    """Whether the conversation with its last turn begins as the policy read it, and goes on with what it wrote."""
    expected = _rendered(tokenizer, turns[:-1], content) + str(_response(written, len(turns) - 1)["content"])
    beginning = after[: _end(after, turns)]
    # templates trim what is around a response, and a sampled one stays as it is: blanks are not compared
    return beginning == expected or "".join(beginning.split()) == "".join(expected.split())


def _check_all_speak(tokenizer: Tokenizer, turns: Sequence[Sequence[Message]], content: str) -> None:
    """Some templates skip the roles that they do not know without a word."""
    marked = [{**message, "content": TURN.replace("{}", str(i))} for i, message in enumerate(turns[-1])]
    text = _rendered(tokenizer, [*turns[:-1], marked], content)
    if not all(message["content"] in text for message in marked):
        raise ValueError(_refusal(turns, "leaves the message out"))


def _end(text: str, turns: Sequence[Sequence[Message]]) -> int:
    """Where the policy's last response ends in the rendered conversation."""
    mark = MARK.format(len(turns) - 1)
    if mark not in text:
        raise ValueError(_refusal(turns, "leaves out responses of the policy"))
    return text.index(mark) + len(mark)


def _refusal(turns: Sequence[Sequence[Message]], what: str) -> str:
    roles = ", ".join(repr(message["role"]) for message in turns[-1])
    return (
        f"the tokenizer's chat template {what} when a turn of role {roles} follows, so a conversation cannot be "
        "appended to: use prompt: plain, another role (turn_role: tool keeps Qwen3's thoughts), or a tokenizer whose "
        "template keeps the conversation as it was (model.tokenizer)"
    )


def _rendered(tokenizer: Tokenizer, turns: Sequence[Sequence[Message]], content: str) -> str:
    return _applied(tokenizer, _messages(turns, content), add_generation_prompt=True)


def _messages(turns: Sequence[Sequence[Message]], content: str) -> list[Message]:
    """All turns with a response of the policy between each two."""
    messages: list[Message] = []
    for number, turn in enumerate(turns):
        if number:
            messages.append(_response(content, number))
        messages += turn
    return messages


def _response(content: str, number: int) -> Message:
    return {"role": "assistant", "content": content.replace("{}", str(number))}


def _applied(tokenizer: Tokenizer, messages: list[Message], *, add_generation_prompt: bool) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)
    except TemplateError as error:
        roles = ", ".join(str(message["role"]) for message in messages)
        raise ValueError(f"the tokenizer's chat template cannot render the roles {roles}: {error}") from error


def _num_written(closing: list[int], delta: list[int], response: np.ndarray, special_ids: Sequence[int]) -> int:
    """How many tokens of the delta the policy has sampled: those that its response ends with, or those up to its
    end-of-turn token. A blank at its end that the closing has too, after that token, is none of them."""
    written = response[-len(closing) :].tolist() if closing else []
    count = max(k for k in range(len(written) + 1) if written[len(written) - k :] == closing[:k])
    if written and written[-1] in special_ids and written[-1] in closing:
        count = max(count, closing.index(written[-1]) + 1)
    return count if delta[:count] == closing[:count] else 0
