"""What a cell of a data set may hold: text, a number, or the messages of a conversation. Anything else is refused."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from .base import Message

MAX_SHOWN = 120
ROLES = ("system", "user", "assistant", "tool", "developer")
_MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*['"](?:role|content)['"]\s*:""")
_FIXES = {
    "list": "name the part that is meant, as `columns: {{{0}: column.0}}`, or join it to one text",
    "dict": "name the part that is meant, as `columns: {{{0}: column.key}}`; verl: `answer: reward_model.ground_truth`",
    "float": "write it as text",
    "bool": "write it as text",
}


class CellError(ValueError):
    """A cell that does not hold what its column is read as. The reader of the rows adds data set, row and column."""

    def __init__(self, meaning: str, message: str) -> None:
        super().__init__(message)
        self.meaning = meaning


@contextlib.contextmanager
def naming(columns: Mapping[str, str]) -> Iterator[None]:
    """Makes of a `CellError` in the `with` block a ValueError that names the column. `columns`: by their meanings."""
    try:
        yield
    except CellError as failure:
        raise ValueError(f"the column {columns[failure.meaning]!r} {failure}") from failure


def is_missing(value: Any) -> bool:
    """True for null, NaN and blank text, each of which says that a row has no value."""
    return value is None or is_nan(value) or not str(value).strip()


def is_nan(value: Any) -> bool:
    """True for NaN, which pandas writes for a cell without a value."""
    return isinstance(value, float) and math.isnan(value)


def text_cell(row: Mapping[str, Any], meaning: str) -> str:
    """The text of a cell; a whole number is written out.

    Raises:
        CellError: for a list, a dict, a float, a truth value, and for text that is no Unicode (half of an emoji).
    """
    value = row[meaning]
    if isinstance(value, bool) or not isinstance(value, str | int):
        kind = type(value).__name__
        fix = _FIXES.get(kind, "write it as text").format(meaning)
        raise CellError(meaning, f"must be text, got {kind} {shown(value)}: {fix}")
    return _unicode(str(value), meaning)


def answer_cell(row: Mapping[str, Any], meaning: str) -> str:
    """The text of a cell that may hold a number: `2`, `0.5`. A whole float, as pandas makes of integers, is an integer.

    Raises:
        CellError: for what `text_cell` refuses but a finite float.
    """
    value = row[meaning]
    if not isinstance(value, float):
        return text_cell(row, meaning)
    if not math.isfinite(value):
        raise CellError(meaning, f"must be text or a finite number, got {value}: fill it in or drop the row")
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)


def prompt_cell(row: Mapping[str, Any], meaning: str) -> str | tuple[Message, ...]:
    """The text of a cell, or the conversation that it holds as a list of messages (verl's `prompt`, TRL's).

    Raises:
        CellError: for what is neither, and for a conversation in which nothing is left to answer.
    """
    value = row[meaning]
    if isinstance(value, str) and _MESSAGES_AS_TEXT.match(value):
        raise CellError(meaning, f"is a list of messages as text, {shown(value)}: store the list itself, not its text")
    if not is_messages(value):
        return text_cell(row, meaning)
    messages = tuple(_message(message, meaning) for message in value)
    if messages[-1]["role"] == "assistant":
        raise CellError(
            meaning,
            f"is a conversation that ends with a message of the assistant, {shown(messages[-1]['content'])}: the "
            "policy writes that, so leave it out",
        )
    return messages


def is_messages(value: Any) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """True for a list of messages with `role` and `content`."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(isinstance(item, Mapping) and {"role", "content"} <= set(item) for item in value)
    )


def shown(value: Any) -> str:
    """The beginning of a value, for an error."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _message(message: Mapping[str, Any], meaning: str) -> Message:
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise CellError(meaning, f"has a message of the role {role!r}: it must be one of {', '.join(ROLES)}")
    if is_missing(content):
        raise CellError(meaning, f"has a message of the role {role!r} without content: fill it in or leave it out")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise CellError(meaning, f"has a message that is not text, {shown(content)}: only text can be read")
    return {"role": role, "content": _unicode("".join(map(str, texts)), meaning)}


def _unicode(text: str, meaning: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as failure:
        raise CellError(
            meaning,
            f"has half of a character (a lone surrogate) at position {failure.start}, in "
            f"{shown(text[max(0, failure.start - 20) : failure.start + 20])}: no tokenizer reads it, so mend the text",
        ) from None
    return text
