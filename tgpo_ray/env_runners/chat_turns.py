"""Later turns of a chat, as the text that the chat template writes between two responses of the policy.

Only this text is encoded and appended. The sampled ids stay as they are, so a template must be append-only. Some
templates are not. Qwen3's drops the thoughts of earlier turns once a user speaks again. Training would then use another
text than the template shows in later turns, so this module refuses these templates.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tgpo_ray.env_runners.prompt_tokens import Message, system_settled

if TYPE_CHECKING:
    from tgpo_ray.models import Tokenizer

OPEN_THOUGHT, CLOSE_THOUGHT = "<think>", "</think>"
# These stand for the policy's responses. The template renders only them, never the sampled text.
MARK = "[response {} of the policy]"
AFTER_THOUGHT = f"[thought {{}}]\n{CLOSE_THOUGHT}\n\n{MARK}"
THOUGHT = f"{OPEN_THOUGHT}\n{AFTER_THOUGHT}"
TURN = "[message {} of the environment]"


def chat_turn_ids(tokenizer: Tokenizer, turns: Sequence[Sequence[Message]], response_ids: np.ndarray) -> np.ndarray:
    r"""Returns (T,) int32, the ids that the environment's last turn adds under the tokenizer's chat template.

    For ChatML these are `<|im_end|>\n<|im_start|>user\n...<|im_end|>\n<|im_start|>assistant\n`. The policy may have
    sampled the beginning of this text, and that part is left out. Mostly it is the end-of-sequence token. In GLM's
    templates it is the token that opens the environment's turn. After a stop string it is nothing.

    Args:
        turns: the environment's messages, one list a turn. The first list is the prompt, the last is the new turn. The
            policy has spoken between any two of them.
        response_ids: (R,) ids that the policy sampled before this turn.

    Raises:
        ValueError: the template cannot render the turn, or would rewrite an earlier one.
    """
    delta, closing = _delta_and_closing(tokenizer, [system_settled(tokenizer, turns[0]), *turns[1:]])
    ids, end = (tokenizer.encode(text, add_special_tokens=False) for text in (delta, closing))
    return np.asarray(ids[_num_written(end, ids, response_ids, _special_ids(tokenizer)) :], np.int32)


def why_refused(tokenizer: Tokenizer, prompt: Sequence[Message], role: str) -> str:
    """Returns why conversations of `prompt` and later turns of `role` are refused, or "" where they are accepted."""
    turn = [{"role": role, "content": "[a turn of the environment]"}]
    try:
        # two later turns: some templates rewrite only what is older than the last turn
        chat_turn_ids(tokenizer, [prompt, turn], np.zeros(0, np.int32))
        chat_turn_ids(tokenizer, [prompt, turn, turn], np.zeros(0, np.int32))
    except ValueError as error:
        return str(error)
    return ""


def _delta_and_closing(tokenizer: Tokenizer, turns: Sequence[Sequence[Message]]) -> tuple[str, str]:
    """Returns the text of the last turn, and the part of it that ends the policy's own turn."""
    opening = _rendered(tokenizer, turns[:1], MARK).rstrip()
    contents = [MARK] if opening.endswith(CLOSE_THOUGHT) else [THOUGHT]  # templates drop thoughts
    if opening.endswith(OPEN_THOUGHT):  # some templates expect the opening tag in the message, some do not
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
    # The end of the policy's turn follows the response with and without a next turn: both texts share it.
    tail, delta = ended[_end(ended, turns) :], after[_end(after, turns) :]
    shared = next((i for i, (a, b) in enumerate(zip(tail, delta, strict=False)) if a != b), min(len(tail), len(delta)))
    return delta, delta[:shared]


def _keeps(tokenizer: Tokenizer, turns: Sequence[Sequence[Message]], content: str, after: str, written: str) -> bool:
    """Returns whether the conversation with its last turn begins with the text that the policy read and wrote."""
    expected = _rendered(tokenizer, turns[:-1], content) + str(_response(written, len(turns) - 1)["content"])
    beginning = after[: _end(after, turns)]
    # templates trim the blanks around a response, but sampled ids keep them: so blanks do not count
    return beginning == expected or "".join(beginning.split()) == "".join(expected.split())


def _check_all_speak(tokenizer: Tokenizer, turns: Sequence[Sequence[Message]], content: str) -> None:
    """Check that the template renders every message. Some templates skip unknown roles without an error."""
    marked = [{**message, "content": TURN.replace("{}", str(i))} for i, message in enumerate(turns[-1])]
    text = _rendered(tokenizer, [*turns[:-1], marked], content)
    if not all(message["content"] in text for message in marked):
        raise ValueError(_refusal(turns, "leaves the message out"))


def _end(text: str, turns: Sequence[Sequence[Message]]) -> int:
    """Returns the index at which the policy's last response ends in the rendered conversation."""
    mark = MARK.format(len(turns) - 1)
    if mark not in text:
        raise ValueError(_refusal(turns, "leaves out responses of the policy"))
    return text.index(mark) + len(mark)


def _refusal(turns: Sequence[Sequence[Message]], what: str) -> str:
    """Returns the message of a refusal."""
    roles = ", ".join(repr(message["role"]) for message in turns[-1])
    return (
        f"the tokenizer's chat template {what} when a turn of role {roles} follows, so a conversation cannot be "
        "appended to: use prompt: plain, another role (turn_role: tool keeps Qwen3's thoughts), or a tokenizer whose "
        "template keeps the conversation as it was (model.tokenizer)"
    )


def _rendered(tokenizer: Tokenizer, turns: Sequence[Sequence[Message]], content: str) -> str:
    return _applied(tokenizer, _messages(turns, content), add_generation_prompt=True)


def _messages(turns: Sequence[Sequence[Message]], content: str) -> list[Message]:
    """Returns the messages of all turns, with a response of the policy between each two turns."""
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


def _special_ids(tokenizer: Tokenizer) -> Collection[int]:
    """Returns the ids of special tokens, also of those that were added without being called special."""
    added = getattr(tokenizer, "get_added_vocab", dict)()
    return {*tokenizer.all_special_ids, *added.values()}


def _num_written(closing: list[int], delta: list[int], response: np.ndarray, special_ids: Collection[int]) -> int:
    """Returns the number of the delta's first tokens that the policy has sampled.

    They are the end of its response, or all tokens of the closing up to its end-of-turn token. A blank that the closing
    has after that token does not count for a blank at the response's end. Where the whole closing is written, the
    special token behind it may be written too: it opens the next turn, and some policies end theirs with it.
    """
    opened = delta[: len(closing) + 1]
    is_opened = len(opened) > len(closing) and opened[:-1] == closing and opened[-1] in special_ids
    if is_opened and response[-len(opened) :].tolist() == opened:
        return len(opened)
    written = response[-len(closing) :].tolist() if closing else []  # `[-0:]` would be the whole response
    count = max(k for k in range(len(written) + 1) if written[len(written) - k :] == closing[:k])
    if written and written[-1] in special_ids and written[-1] in closing:
        count = max(count, closing.index(written[-1]) + 1)
    return count if delta[:count] == closing[:count] else 0
