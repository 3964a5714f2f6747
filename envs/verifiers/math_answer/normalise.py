r"""One spelling for an answer: what only looks different is written alike, what differs in value stays different."""

from __future__ import annotations

import re

from .characters import as_latex
from .code_style import as_formula

_DOUBLED = re.compile(r"\\\\(?=[A-Za-z$])")  # LaTeX that was escaped twice
_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]|(?<!\\)\$")
_DROPPED = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])\.?|\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits"
    r"|tiny|small|normalsize|large|Large|LARGE|huge|Huge|centering|bf|it|rm|sf|tt)(?![A-Za-z])|\\(?:phantom|label|tag\*?"
    r"|hspace\*?|vspace\*?|color)\s*\{[^{}]*\}|(?<!\\)\\(?:null|strut)(?![A-Za-z])"
)
_WRAPPER = re.compile(
    r"\\(?:mathbf|mathit|mathsf|mathtt|mathnormal|boldsymbol|bm|ensuremath|underline|uline|mathord|textcolor\s*\{[^{}]*\}"
    r"|f?boxed|fbox|framebox|emph|displaylines|mathbin)\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
)
_TEXT = re.compile(r"\\(?:text(?:normal|bf|it|rm|sf|tt|sl|sc|up|md)?|mathrm|mbox|hbox|operatorname\*?|mathop)\s*\{")
_ALIKE = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:leqslant|leq)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:geqslant|geq)(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\neq(?![A-Za-z])|\\not\s*="), r"\\ne "),
    (re.compile(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}"), r"\\frac{\1}{\2}"),
    (re.compile("<="), r"\\le "),
    (re.compile(">="), r"\\ge "),
    (re.compile("!="), r"\\ne "),
    (re.compile(r"\\(?:lt)(?![A-Za-z])"), "<"),
    (re.compile(r"\\(?:gt)(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:dots[cmbio]?|cdots|ldots|dotsc)(?![A-Za-z])"), r"\\ldots "),
    (re.compile(r"\\(?:lbrace|lbrack)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace|rbrack)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\(?:varnothing|O)(?![A-Za-z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\^\s*\{?\s*\\circ(?![A-Za-z])\s*\}?|\\degree(?![A-Za-z])"), r"^\\circ "),
    (re.compile(r"\\(?:thickapprox|simeq)(?![A-Za-z])|~="), r"\\approx "),
    (re.compile(r"\\(?:lvert|rvert|vert)(?![A-Za-z])"), "|"),
)
# Thousands: groups of exactly three digits. `{,}` before other counts of digits is a decimal comma.
_THIN = re.compile(r"(?<![\d.,])(\d{1,3}(?:(?:\s*(?:\\[,;:! ]|~|\{\s*,\s*\}|,\\!)\s*|\s+)\d{3})+)(?!\d)")
_DECIMAL_COMMA = re.compile(r"(?<=\d)\{\s*,\s*\}(?=\d)")
_SPACE = re.compile(
    r"(?<!\\)\\[,;:!> ]|\\(?:quad|qquad|thinspace|medspace|thickspace|enspace|space|nobreakspace)(?![A-Za-z])|~"
)
_MARKDOWN = re.compile(r"(\*\*|__|`+|\*|~~|~)\s*(.+?)\s*\1")
_UPRIGHT = {"e", "i"}  # constants, where units are meant to be upright words
_FUNCTIONS = {
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "arcsin",
    "arccos",
    "arctan",
    "log",
    "ln",
    "exp",
    "max",
    "min",
    "gcd",
    "det",
}
_ENDS = " \t\r\n,;"
_ORDINAL = re.compile(r"\^\s*\{?\s*\\text\s*\{\s*(st|nd|rd|th)\s*\}\s*\}?")
_SIGN = re.compile(r"(^|[(\[{,;=<>])\s*\+\s*(?=[\d.\\])")


def normalised(text: str) -> str:
    r"""`text` with one spelling of characters, blanks, fonts, thousands and common commands.

    Fonts and sizes go; `\text`, `\mathrm` and the like all become `\text`; words in them stay words, and numbers in
    them leave them: `\mathrm{6\,cm}` is `6 \text{cm}`. Full stops, commas and Markdown around the whole text go.
    """
    text = without_markdown(as_latex(text).strip())
    if "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    text = _DELIMITERS.sub(" ", text.replace("\\$", "\\usd "))
    for _ in range(8):  # wrappers may be nested
        inner = _WRAPPER.sub(r" \1 ", _DROPPED.sub(" ", text))
        if inner == text:
            break
        text = inner
    text = _THIN.sub(lambda match: re.sub(r"\D", "", match[1]), text)
    text = _DECIMAL_COMMA.sub(".", text)
    text = _SPACE.sub(" ", text)
    for pattern, replacement in _ALIKE:
        text = pattern.sub(replacement, text)
    text = _ORDINAL.sub(r" \\text{\1}", as_formula(_opened_texts(text)))
    text = _SIGN.sub(r"\1", re.sub(r"\s+", " ", text))
    return _without_ends(text)


def without_markdown(text: str) -> str:
    """`text` without stars, underscores, backticks and tildes around all of it."""
    for _ in range(4):
        match = _MARKDOWN.fullmatch(text.strip().rstrip("."))
        if match is None:
            return text.strip()
        text = match[2]
    return text


def _opened_texts(text: str) -> str:
    """All fonts of words as `\text{...}`, with numbers and formulas in them outside."""
    parts: list[str] = []
    place = 0
    while match := _TEXT.search(text, place):
        end = closing(text, match.end() - 1)
        if end < 0:
            break
        parts += [text[place : match.start()], _opened(text[match.end() : end])]
        place = end + 1
    return "".join(parts) + text[place:]


_PIECE = re.compile(r"\d+(?:[.,:/]\d+)*|[^\d]+")


def _opened(content: str) -> str:
    """`6 cm` as ` 6 \text{ cm}`; symbols alone leave too."""
    if _TEXT.search(content) or "\\" in content or "^" in content:
        content = _opened_texts(content)
        return f" {content} "
    pieces = [piece if piece[0].isdigit() else _worded(piece) for piece in _PIECE.findall(content)]
    return "".join(pieces) if pieces else " "


def _worded(piece: str) -> str:
    word = piece.strip()
    if word in _UPRIGHT:
        return f" {word} "
    if word in _FUNCTIONS:
        return f" \\{word} "
    return f"\\text{{{piece}}}" if any(char.isalpha() for char in piece) else piece


def closing(text: str, start: int) -> int:
    """The place of the brace that closes the one at `start`, or -1."""
    depth = 0
    for place in range(start, len(text)):
        if text[place] in "{}" and (place == 0 or text[place - 1] != "\\"):
            depth += 1 if text[place] == "{" else -1
            if depth == 0:
                return place
    return -1


def _without_ends(text: str) -> str:
    text = text.strip(_ENDS)
    while text.endswith((".", ":")) and not text.endswith(("...", "\\.")):
        text = text[:-1].rstrip(_ENDS)
    while text.startswith("{") and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip(_ENDS)
    return text
