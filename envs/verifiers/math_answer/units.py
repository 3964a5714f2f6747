r"""Splits a value from its unit: `6 \text{ cm}^2` is 6 and `cm^2`.

A unit is a word, so a letter that can be a variable is none: `6m` is a product, `6 \text{ m}` are metres.
"""

from __future__ import annotations

import re

_NAMES = {
    "cm": "centimeter centimetre", "mm": "millimeter millimetre", "km": "kilometer kilometre kms", "m": "meter metre",
    "dm": "decimeter decimetre", "nm": "nanometer nanometre", "ft": "foot feet", "inch": "inches in", "yd": "yard",
    "mi": "mile", "g": "gram gramme gm", "kg": "kilogram kilo kilogramme kgs", "mg": "milligram", "lb": "pound lbs",
    "oz": "ounce", "ton": "tonne", "L": "liter litre l", "mL": "milliliter millilitre ml", "gal": "gallon",
    "s": "second sec", "min": "minute mins", "h": "hour hr hrs", "d": "day", "wk": "week", "yr": "year", "ms":
    "millisecond", "deg": "degree", "rad": "radian", "dollar": "usd buck", "cent": "", "eur": "euro", "gbp": "",
    "rupee": "rs inr",
    "mi/h": "mph", "km/h": "kmh kph kmph", "J": "joule", "kJ": "kilojoule", "N": "newton", "W": "watt",
    "kW": "kilowatt", "V": "volt", "kV": "kilovolt", "Hz": "hertz", "kHz": "kilohertz", "Pa": "pascal", "kPa":
    "kilopascal", "am": "", "pm": "", "K": "kelvin", "mol": "mole", "ohm": "", "acre": "", "child": "children",
    "man": "men", "woman": "women", "person": "people", "": "unit",
}  # fmt: skip


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CANONICAL = {other: name for name, others in _NAMES.items() for other in others.split()}
# Symbols that nobody takes for a product of variables, with or without a blank after the number.
SYMBOLS = _words(
    "cm mm km kg lb lbs ft oz yd mph kmh kph kmph rpm hr hrs min mins sec secs usd eur gbp ml mL kHz Hz kW kPa kJ kV"
)
_MEASURES = frozenset(name for name in _NAMES if name) | {"%"}
# Words after a number that change its value, or that say that it is not the answer.
NO_UNITS = _words(
    "not no or and if when where maybe perhaps possibly less more least most than times plus minus over divided by mod"
    " modulo squared cubed factorial choose root below under above negative otherwise unless except either neither"
    " between to through until with because since so but is are was equals equal undefined infinity pi theta alpha beta"
    " sqrt sin cos tan log ln exp of half quarter third thirds quarters halves"
)
MULTIPLES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_POWER = r"(?:\s*\^\s*\{?\s*-?\d\s*\}?)?"
_TEXT = r"\\text\s*\{[^{}0-9\\]*\}"
_TOKEN = re.compile(
    rf"(?P<text>{_TEXT}{_POWER}|\\frac\s*\{{\s*{_TEXT}\s*\}}\s*\{{\s*{_TEXT}\s*\}})|(?P<joint>/|\\cdot(?![A-Za-z])|\s+)"
    rf"|(?P<word>[A-Za-z][A-Za-z.']*{_POWER})|\\[A-Za-z]+|.",
    re.DOTALL,
)
MAX_UNIT = 12  # tokens of a unit, blanks included
_SIGNS = re.compile(
    r"(?P<value>.+?)\s*(?:(?P<degree>\^\\circ\s*(?:\\text\s*\{\s*)?(?P<scale>[CF](?![A-Za-z]))?\s*\}?)"
    r"|(?P<percent>\\?%|(?:\\text\s*\{)?\s*(?:percent|per cent|percentage|pct)\s*\}?)|(?P<money>\\usd|€|£|¥|₹))",
    re.DOTALL,
)
_MONEY = re.compile(
    r"(?P<sign>-?)\s*(?P<money>\\usd|€|£|¥|₹|\\pounds|\\text\{\s*(?:USD|EUR|GBP|INR|Rs\.?)\s*\})\s*(?P<value>.+)",
    re.DOTALL,
)
_CURRENCIES = {"\\usd": "dollar", "€": "eur", "£": "gbp", "\\pounds": "gbp", "¥": "yen", "₹": "rupee"}
_LETTERS = re.compile(r"[A-Za-z]+")
_ENDS_IN_NUMBER = re.compile(r"\d\s*[})\]]*$|\\(?:pi|infty)\s*[})\]]*$")


def split_unit(text: str) -> tuple[str, str]:
    """The value and its canonical unit, "" where it has none. `%` and `deg` are units too."""
    money = _MONEY.fullmatch(text)
    if money:
        value, unit = split_unit(money["value"])
        name = money["money"]
        return f"{money['sign']}{value}", unit or _CURRENCIES.get(name) or canonical(name[6:-1])
    sign = _SIGNS.fullmatch(text)
    if sign:
        if sign["percent"]:
            return sign["value"], "%"
        if sign["money"]:
            return sign["value"], _CURRENCIES[sign["money"]]
        return sign["value"], f"deg{sign['scale'] or ''}"
    tokens = list(_TOKEN.finditer(text))
    first = len(tokens)
    while first > max(1, len(tokens) - MAX_UNIT) and (tokens[first - 1].lastgroup):
        first -= 1
    for place in range(first, len(tokens)):
        start = tokens[place].start()
        value, unit = text[:start], text[start:]
        if tokens[place].lastgroup != "joint" and is_unit(value.rstrip(), value[-1:].isspace(), unit):
            return value.strip(), canonical(unit)
    return text, ""


def is_unit(value: str, blank: bool, unit: str) -> bool:
    """True where `unit` cannot be a part of the formula and does not change what the value means."""
    words = _LETTERS.findall(unit.replace("\\text", " ").replace("\\frac", " ").replace("\\cdot", " "))
    if not value or not words or any(word.lower() in NO_UNITS for word in words):
        return False
    if not _ENDS_IN_NUMBER.search(value) and not unit.startswith("\\"):
        return False  # `n people` may be a product; `n \text{ people}` is none
    if "\\text" in unit:
        bare = _LETTERS.findall(re.sub(r"\\text\s*\{[^{}]*\}|\\frac|\\cdot|\\times", " ", unit))
        return all(_is_word(word, True) for word in bare)
    long = [word for word in words if _is_word(word, blank)]
    return len(long) == len(words) or (bool(long) and "/" in unit)  # `km/h`: the h of a rate


def _is_word(word: str, blank: bool) -> bool:
    if word in SYMBOLS or word in ("USD", "EUR", "GBP", "INR") or (word.lower() in _CANONICAL and len(word) > 3):
        return True
    pronounced = bool(re.search("[aeiou]", word)) and not word.isupper()
    return (len(word) >= 4 and pronounced) or (len(word) == 3 and blank and pronounced and word not in ("abc", "ace"))


def canonical(unit: str) -> str:
    r"""One name for a unit: `\text{square centimeters}` is `cm^2`, `km per hour` is `km/h`."""
    ratio = re.fullmatch(r"\\frac\s*\{(.*)\}\s*\{(.*)\}", unit.strip(), re.DOTALL)
    if ratio:
        unit = f"{ratio[1]}/{ratio[2]}"
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", unit)
    text = re.sub(r"\\(?:cdot|times)", " ", text).replace("{", "").replace("}", "").replace(".", "")
    text = re.sub(r"\s*\^\s*", "^", re.sub(r"\bper\b|\ban?\b(?=\s+\w+$)", "/", text))
    sides = [" ".join(_named(words) for words in _phrases(side)).strip() for side in text.split("/")]
    name = "/".join(side for side in sides if side)
    return _CANONICAL.get(name, name)


def _phrases(side: str) -> list[str]:
    words = side.split()
    powers = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3", "squared": "^2", "cubed": "^3"}
    if len(words) > 1 and words[0].lower() in powers:
        return [f"{words[1]}{powers[words[0].lower()]}", *words[2:]]
    return words


def _named(word: str) -> str:
    base, power, exponent = word.partition("^")
    name = base if base in _NAMES else _CANONICAL.get(base) or _singular(base.lower())
    return f"{name}{power}{exponent}" if name else ""


def _singular(word: str) -> str:
    for candidate in (word, word.removesuffix("s"), word.removesuffix("es")):
        if candidate in _CANONICAL:
            return _CANONICAL[candidate]
        if candidate in _NAMES:
            return candidate
    return word.removesuffix("s") if len(word) > 3 and not word.endswith("ss") else word


def units_agree(gold: str, response: str) -> bool:
    """True where one lacks a unit, or both name the same. Words that are no measures may be more or fewer."""
    if not gold or not response or gold == response:
        return True
    if "%" in (gold, response):
        return False
    first, second = set(re.split(r"[ /]", gold)), set(re.split(r"[ /]", response))
    if _measured(gold) or _measured(response):
        return False
    return first <= second or second <= first


def _measured(unit: str) -> bool:
    return any(word.partition("^")[0] in _MEASURES for word in re.split(r"[ /]", unit))
