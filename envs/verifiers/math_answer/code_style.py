r"""Formulas as code and LaTeX without braces: `-2*pi`, `sqrt(3)/2`, `x**2`, `1.5e3`, `\sqrt[3]2`, `\frac12`."""

from __future__ import annotations

import re

_SCIENTIFIC = re.compile(r"(?<![A-Za-z0-9_.\\}])(\d+\.?\d*|\.\d+)[eE]([+-]?\d+)(?![A-Za-z0-9_.])")
_POWER = re.compile(r"\*\*\s*(\d+|[A-Za-z](?![A-Za-z])|(?=\())")
_STAR = re.compile(r"(?<!\\)\*")
_NAMED = re.compile(r"(?<![A-Za-z\\])(pi|infinity|infty|theta|alpha|beta|lambda)(?![A-Za-z(])")
_FUNCTION = re.compile(
    r"(?<![A-Za-z\\])(sqrt|cbrt|exp|abs|ln|log|sin|cos|tan|arcsin|arccos|arctan|cot|sec|csc)\s*(?=\()"
)
_BARE_ROOT = re.compile(r"(?<![A-Za-z\\])sqrt\s*(?=\{|\d)")
_OPEN_ROOT = re.compile(r"\\sqrt(\[[^\]]*\])?\s*(?=\()")
_ROOT_OF = re.compile(r"\\sqrt\s*(\[[^\]]*\])?\s*(\d|[A-Za-z]|\\[A-Za-z]+)")
_POWER_OF = re.compile(r"\^\s*(?=\()")
_FRACTION = re.compile(r"\\frac\s*(?:(\d)\s*(\d)|(\d)\s*(?=\{)|([A-Za-z])\s*(?=[{\dA-Za-z\\]))")
_OVER_DIGIT = re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d|[A-Za-z])")
_COMPLEX = re.compile(r"(?<=\d)\s+i(?![A-Za-z])|(?<![\d.])1i(?![A-Za-z])")


def as_formula(text: str) -> str:
    """`text` with LaTeX for what is written as code, where it can mean one thing only."""
    text = _SCIENTIFIC.sub(lambda match: f"{match[1]}\\cdot 10^{{{int(match[2])}}}", text)
    if "*" in text:
        text = _STAR.sub(r"\\cdot ", _POWER.sub(lambda match: f"^{{{match[1]}}}" if match[1] else "^", text))
    text = _COMPLEX.sub("i", text)
    if "(" in text or "sqrt" in text or "pi" in text or "inf" in text:
        text = _NAMED.sub(lambda match: f"\\{'infty' if match[1].startswith('inf') else match[1]} ", text)
        text = _functions(_BARE_ROOT.sub(r"\\sqrt", text))
    text = _ROOT_OF.sub(lambda match: f"\\sqrt{match[1] or ''}{{{match[2]}}}", text)
    text = _FRACTION.sub(_fraction, text)
    return _OVER_DIGIT.sub(r"\1{\2}", text)


def _fraction(match: re.Match[str]) -> str:
    if match[1]:
        return f"\\frac{{{match[1]}}}{{{match[2]}}}"
    return f"\\frac{{{match[3] or match[4]}}}"


def _functions(text: str) -> str:
    while match := _FUNCTION.search(text) or _OPEN_ROOT.search(text) or _POWER_OF.search(text):
        end = _closing(text, match.end())
        if end < 0:
            return text
        inner, name = text[match.end() + 1 : end], match[0].strip()
        if match.re is _FUNCTION:
            name = match[1]
        text = text[: match.start()] + _called(name, inner) + text[end + 1 :]
    return text


def _called(name: str, inner: str) -> str:
    if name.startswith("\\sqrt") or name == "^":
        return f"{name}{{{inner}}}"
    wrapped = {
        "sqrt": f"\\sqrt{{{inner}}}",
        "cbrt": f"\\sqrt[3]{{{inner}}}",
        "exp": f"e^{{{inner}}}",
        "abs": f"|{inner}|",
    }
    return wrapped.get(name, f"\\{name}({inner})")


def _closing(text: str, start: int) -> int:
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return -1
