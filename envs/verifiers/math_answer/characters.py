"""Characters that look like mathematics, as LaTeX."""

# ruff: noqa: RUF001, RUF002
from __future__ import annotations

import re

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎", "0123456789+-()")
_RUN = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+)|([₀₁₂₃₄₅₆₇₈₉₊₋₍₎]+)")
_ROOT = re.compile(r"([√∛∜])\s*(\{|\(|\d+(?:\.\d+)?|\\?[A-Za-z]+|.)?")
_DEGREES = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}
_FULLWIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}

_FRACTIONS = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅐": "1/7", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8", "⅑": "1/9", "⅒": "1/10",
}  # fmt: skip
_COMMANDS = {
    "×": "times", "·": "cdot", "⋅": "cdot", "∙": "cdot", "÷": "div", "±": "pm", "∓": "mp", "≤": "le", "⩽": "le",
    "≥": "ge", "⩾": "ge", "≠": "ne", "≈": "approx", "≡": "equiv", "∞": "infty", "∪": "cup", "∩": "cap", "∈": "in",
    "∅": "emptyset", "…": "ldots", "⋯": "ldots", "⟨": "langle", "⟩": "rangle", "〈": "langle", "〉": "rangle",
    "⌊": "lfloor", "⌋": "rfloor", "⌈": "lceil", "⌉": "rceil", "→": "to", "∠": "angle", "ℝ": "mathbb{R}",
    "ℤ": "mathbb{Z}", "ℕ": "mathbb{N}", "ℚ": "mathbb{Q}", "ℂ": "mathbb{C}", "α": "alpha", "β": "beta", "γ": "gamma",
    "δ": "delta", "ε": "epsilon", "θ": "theta", "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "φ": "phi", "ϕ": "phi", "ψ": "psi", "ω": "omega", "Δ": "Delta", "Σ": "Sigma", "Ω": "Omega",
}  # fmt: skip
_PLAIN = {
    **dict.fromkeys("−‐‑‒–—―﹣", "-"), **dict.fromkeys("\u00a0\u2007\u2009\u200a\u202f", "\\,"),
    **dict.fromkeys("\u2002\u2003\u2004\u2005\u2006\u2008\u3000", " "), **dict.fromkeys("\u200b\u2060\ufeff", ""),
    **dict.fromkeys("’′ʹ", "'"), **dict.fromkeys("″“”", '"'), "⁄": "/", "∕": "/", "∗": "*", "٪": "%", "、": ",",
    "。": ".", "°": "^\\circ ", "º": "^\\circ ", "˚": "^\\circ ",
}  # fmt: skip
_TABLE = {
    **_FULLWIDTH,
    **{ord(char): f"\\{command} " for char, command in _COMMANDS.items()},
    **{ord(char): text for char, text in _PLAIN.items()},
    **{ord(char): " \\frac{{{}}}{{{}}}".format(*text.split("/")) for char, text in _FRACTIONS.items()},
}


def as_latex(text: str) -> str:
    r"""`text` with LaTeX for characters: `x²` is `x^{2}`, `√2` is `\sqrt{2}`, `−½` is `- \frac{1}{2}`, `５` is `5`."""
    if text.isascii():
        return text
    text = _RUN.sub(_script, text)
    return _ROOT.sub(_root, text.translate(_TABLE))


def _script(match: re.Match[str]) -> str:
    up, down = match.groups()
    return f"^{{{up.translate(_SUPERSCRIPTS)}}}" if up else f"_{{{down.translate(_SUBSCRIPTS)}}}"


def _root(match: re.Match[str]) -> str:
    command, first = _DEGREES[match[1]], match[2] or ""
    if first == "{":
        return f"{command}{first}"
    if first == "(":  # `√(x+1)`: the reader of code style knows where the bracket closes
        return f"{command}("
    return f"{command}{{{first}}}"
