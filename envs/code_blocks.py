"""The Python code of a response: its fenced blocks, and which of them is the answer."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

LANGUAGES = ("python", "py", "python3", "py3")

# `- ```python`: a list's mark may stand before the fence, and an info string behind the language.
_OPENING = re.compile(r"(?P<indent>[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)")
_CLOSING = re.compile(r"[ \t]*(?P<fence>`{3,}|~{3,})[ \t]*")
_LANGUAGE = re.compile(r"\s*\{?\s*\.?(?P<name>[\w+#.-]*)")

_CODE = re.compile(r"#.*|\\.|(?P<triple>\"\"\"|''')|\"(?:\\.|[^\"\\])*\"?|'(?:\\.|[^'\\])*'?")
_STRING = {mark: re.compile(rf"\\.|(?P<end>{mark})") for mark in ('"""', "'''")}


def answer_block(response: str, name: str) -> str | None:
    """The code of the last block that defines `name`, or of the last block where none does; None without a block.

    A block behind it that only uses `name`, such as an example, is not the answer. A block that imports `name` counts
    where none defines it.
    """
    blocks = list(python_blocks(response))
    bound = re.escape(name)
    defines = re.compile(rf"^[ \t]*(?:async[ \t]+def|def|class)[ \t]+{bound}\b|^{bound}[ \t]*(?::[^=\n]*)?=(?!=)", re.M)
    imports = re.compile(rf"^[ \t]*(?:from[ \t]+\S+[ \t]+)?import\b[^\n#]*\b{bound}\b", re.M)
    for pattern in (defines, imports):
        for block in reversed(blocks):
            if pattern.search(block):
                return block
    return blocks[-1] if blocks else None


def python_blocks(response: str) -> Iterator[str]:
    r"""Yields the code of each closed fenced block that is marked as Python, in order.

    A line ends at `\n` only, so that U+2028 and form feeds stay in the code. A fence within a triple-quoted string, as
    in the example of a docstring, does not end a block. The indentation of the opening fence is taken off each line.
    """
    lines = response.split("\n")
    minds_strings, number = True, 0
    while number < len(lines):
        opening = _opening(lines[number])
        number += 1
        if opening is None:
            continue
        end = _end(lines, number, opening["fence"], minds_strings=minds_strings)
        if end is None and minds_strings:
            # A string that never closes is no reason to see no fence. From here on once: the time stays linear.
            minds_strings = False
            end = _end(lines, number, opening["fence"], minds_strings=False)
        if end is None:
            return
        if _CLOSING.fullmatch(lines[end].rstrip("\r")):
            yield _code(lines[number:end], len(opening["indent"]))
            number = end + 1
        else:  # another block begins here: this one was never closed
            number = end


def _opening(line: str) -> re.Match[str] | None:
    """The match of a fence that begins a block of Python, or None."""
    opening = _OPENING.fullmatch(line.rstrip("\r"))
    language = opening and _LANGUAGE.match(opening["info"])
    return opening if language and language["name"].lower().partition(".")[0] in LANGUAGES else None


def _end(lines: list[str], begin: int, fence: str, *, minds_strings: bool) -> int | None:
    """The number of the line that ends the block: its closing fence, or the fence of a next block of Python."""
    string = ""
    for number in range(begin, len(lines)):
        line = lines[number]
        if not string:
            closing = _CLOSING.fullmatch(line.rstrip("\r"))
            if closing and closing["fence"].startswith(fence):
                return number
            if _opening(line):
                return number
        if minds_strings:
            string = _string_after(line, string)
    return None


def _string_after(line: str, string: str) -> str:
    """The quotes of the triple-quoted string that is open after `line`, or ""; `string` is what was open before it."""
    at = 0
    while True:
        token = (_STRING[string] if string else _CODE).search(line, at)
        if token is None:
            return string
        at = token.end()
        if string:
            string = "" if token["end"] else string
        elif token["triple"]:
            string = token["triple"]


def _code(lines: list[str], indent: int) -> str:
    kept = [line[min(indent, len(line) - len(line.lstrip(" \t"))) :] for line in lines]
    code = "\n".join(kept) + "\n"
    return textwrap.dedent(code) if code.lstrip("\n\r")[:1] in (" ", "\t") else code
