r"""Splits a normalised answer at its top level: lists, brackets, matrices, sides of an equation."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(r"\\(?:begin|end)\s*\{[A-Za-z*]+\}|\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPENERS = {"(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"}
_CLOSERS = {")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"}
_KINDS = {("(", ")"): "()", ("[", "]"): "[]", ("(", "]"): "(]", ("[", ")"): "[)", ("\\{", "\\}"): "{}",
          ("\\langle", "\\rangle"): "<>"}  # fmt: skip
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_JOIN = r"(?:,?\s*\b(?:and|or)\b(?:\s+(?:also|maybe|perhaps|possibly|even|else))?)"
_IN_TEXT = re.compile(rf"(\\text\s*\{{[^{{}}]*?){_JOIN}([^{{}}]*\}})", re.IGNORECASE)
_BARE = re.compile(rf"(?<=[\d\s}})\]]){_JOIN}(?=[\s\\\d(])|,\s*(?=,)")
_EMPTY = re.compile(r"\\text\s*\{\s*(?:,|either|both|also)?\s*\}")
_EITHER = re.compile(r"^\s*(?:\\text\s*\{\s*(?:either|both)\b|(?:either|both)\b)\s*")
_MATRIX = re.compile(r"\\begin\s*\{([pb]?matrix)\}(.*)\\end\s*\{\1\}", re.DOTALL)
_SEPARATOR = "\x1f"


def tokens(text: str) -> Iterator[tuple[str, int, int]]:
    """Each token, its place, and the depth of brackets around it."""
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in _CLOSERS or token.startswith("\\end"):
            depth -= 1
        yield token, match.start(), depth
        if token in _OPENERS or token.startswith("\\begin"):
            depth += 1


def split_list(text: str, *, thousands: bool) -> list[str]:
    """The members of a list: between commas, semicolons, `and` and `or`, outside brackets.

    Args:
        thousands: whether a comma between groups of three digits belongs to a number.
    """
    while match := _IN_TEXT.search(text):
        text = f"{text[: match.start()]}{match[1]}}}{_SEPARATOR}\\text{{{match[2]}{text[match.end() :]}"
    text = _BARE.sub(_SEPARATOR, text)
    kept = {i for match in _THOUSANDS.finditer(text) for i in range(match.start(), match.end())} if thousands else set()
    parts, start = [], 0
    for token, place, depth in tokens(text):
        cut = token in (",", ";", _SEPARATOR, "\\lor", "\\vee", "\\\\", "\n")
        if depth == 0 and cut and not (token == "," and place in kept):
            parts.append(text[start:place])
            start = place + len(token)
    parts.append(text[start:])
    cleaned = (
        _EITHER.sub("", _EMPTY.sub(" ", part)).strip(
            " \t:.,;" if part.count(".") == 1 and part.strip().endswith(".") else " \t,;"
        )
        for part in parts
    )
    return [part for part in cleaned if part]


def parts_at(text: str, mark: str) -> list[str]:
    """The pieces of `text` between marks outside brackets."""
    parts, start = [], 0
    for token, place, depth in tokens(text):
        if token == mark and depth == 0:
            parts.append(text[start:place])
            start = place + len(token)
    return [*parts, text[start:]]


def bracketed(text: str) -> tuple[str, str] | None:
    """The kind of the brackets around all of `text`, and what is in them."""
    text = text.strip()
    if not text.startswith(("(", "[", "\\{", "\\langle")):
        return None
    opening = ""
    for token, place, depth in tokens(text):
        opening = opening or token
        if token in _CLOSERS and depth == 0:
            kind = _KINDS.get((opening, token))
            whole = place + len(token) == len(text)
            return (kind, text[len(opening) : place]) if whole and kind else None
    return None


def matrix_rows(text: str) -> list[list[str]] | None:
    """The cells of a matrix, where all of `text` is one."""
    match = _MATRIX.fullmatch(text.strip())
    if match is None or "\\begin" in match[2]:
        return None
    rows = [
        [cell.strip() for cell in row.split("&")] for row in re.split(r"\\\\(?:\[[^\]]*\])?", match[2]) if row.strip()
    ]
    return rows if rows and all(len(row) == len(rows[0]) for row in rows) and all(all(row) for row in rows) else None


def is_balanced(text: str) -> bool:
    """True where every bracket closes."""
    depth = 0
    for token in _TOKEN.findall(text):
        depth += (token in _OPENERS or token.startswith("\\begin")) - (token in _CLOSERS or token.startswith("\\end"))
        if depth < 0:
            return False
    return depth == 0
