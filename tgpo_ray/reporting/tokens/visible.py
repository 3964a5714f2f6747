"""The text of a token made visible: nothing in it may hide, join its neighbours or turn the direction of the line."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

MAX_SHOWN = 160  # characters of one token
NEWLINE, RETURN, TAB = "⏎\n", "␍", "⇥\t"
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}  # Unicode categories without a shape of their own
CARRIER = "\u25cc"  # the dotted circle, which a combining mark stands on where it has no letter


def visible(piece: str | Mapping[str, str]) -> str:
    """The text of a token with a sign for each character that has no shape of its own.

    A line feed stays one, behind its sign. Control characters become their pictures, and others a code, as ⟨U+202E⟩ for
    a turn of the writing direction. Bytes of half of a character are ⟨E2 82⟩.
    """
    if not isinstance(piece, str):
        if "bytes" in piece:
            return "⟨" + bytes.fromhex(piece["bytes"])[: MAX_SHOWN // 3].hex(" ").upper() + "⟩"
        piece = piece.get("special", "")
    text = "".join(map(_sign, piece[:MAX_SHOWN])) + ("…" if len(piece) > MAX_SHOWN else "")
    return CARRIER + text if text and unicodedata.category(text[0])[0] == "M" else text


def _sign(character: str) -> str:
    if character == " " or unicodedata.category(character) not in HIDDEN:
        return character
    if character in "\n\r\t":
        return {"\n": NEWLINE, "\r": RETURN, "\t": TAB}[character]
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
