"""The bytes of each token of a tokenizer, and the spelling of any bytes in its tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Spelling = Callable[[str], bytes]
SENTINEL = "\n"  # no tokenizer joins it to the text that follows
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
NOT_TEXT = re.compile("([\udc80-\udcff]+)")  # bytes outside UTF-8, as `surrogateescape` decodes them
NUM_PROBES = 300
MIN_READABLE_SHARE = 0.9


@dataclass(frozen=True)
class TokenBytes:
    """A tokenizer as a dictionary of byte strings. Build it with `from_tokenizer`.

    Several tokens may share the bytes of a character, so a token need not be text. For example, `values[i]` of `ä½` in
    byte-level BPE is two thirds of a Chinese character. In SentencePiece `▁` is a space and `<0xE4>` is one byte.
    """

    values: tuple[bytes, ...]  # by id; b"" for special tokens and for ids without a token
    special: Mapping[int, str]  # id -> string of each special token
    encode: Callable[[str], Sequence[int]]  # text -> ids; it reads no special tokens in the text
    rank: Mapping[int, int]  # 1 for ids that come last among ids of equal bytes (SentencePiece's byte tokens)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> TokenBytes:
        """Returns the bytes of a Hugging Face tokenizer, or of any object with its methods that are used here.

        These are `get_vocab`, `all_special_ids`, `encode` and `decode`. A few hundred tokens are decoded to see in
        which alphabet the token strings are written (byte-level BPE's, SentencePiece's, plain text).

        Raises:
            ValueError: the strings are in none of these alphabets (for example WordPiece's `##ing`).
        """
        vocabulary: Mapping[str, int] = tokenizer.get_vocab()
        special = _special_tokens(tokenizer, vocabulary)
        added = set(tokenizer.get_added_vocab().values()) if hasattr(tokenizer, "get_added_vocab") else set()
        ordinary = {token: i for token, i in vocabulary.items() if i not in special}
        spelling = _find_spelling(tokenizer, {token: i for token, i in ordinary.items() if i not in added})
        values = [b""] * (max(vocabulary.values(), default=-1) + 1)
        for token, index in ordinary.items():
            values[index] = token.encode() if index in added else spelling(token)
        last = {i: 1 for token, i in ordinary.items() if spelling is _sentencepiece and BYTE_TOKEN.fullmatch(token)}
        return cls(tuple(values), special, _encoder(tokenizer), last)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(V,) int64: bytes of each token."""
        return np.array([len(value) for value in self.values], dtype=np.int64)

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """The id of each byte string. The first of several ids counts, and a special token never does."""
        # reversed, because the last writer of a dictionary key wins
        order = sorted(range(len(self.values)), key=lambda i: (self.rank.get(i, 0), i), reverse=True)
        return {self.values[i]: i for i in order if self.values[i]}

    def join(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of the tokens, one after the other; the ids must be in range."""
        return b"".join([self.values[i] for i in ids])

    def first_piece(self, data: bytes) -> int:
        """Returns the id of the first token of these bytes, spelled by themselves, or -1.

        A token of exactly these bytes has precedence. Otherwise the tokenizer spells text. Bytes that are not text,
        such as half of a character, are spelled by the longest token that they begin with.
        """
        if data in self.ids:
            return self.ids[data]
        try:
            ids = self._encode_bare(data.decode())
        except UnicodeDecodeError:
            return self._longest_match(data)
        first = next((int(i) for i in ids if self.values[i]), -1)
        return first if first >= 0 and data.startswith(self.values[first]) else self._longest_match(data)

    def spell(self, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ids (M,) int32, starts (M,) int64): these bytes in tokens, and the offset of each first byte.

        Bytes that are not text are spelled by their longest tokens, or left out if there is none. An offset is -1 if it
        is unknown, because the tokenizer has changed the text (Unicode normalisation, unknown characters).
        """
        ids, starts, offset = [], [], 0
        for run in NOT_TEXT.split(data.decode("utf-8", "surrogateescape")):
            run_bytes = run.encode("utf-8", "surrogateescape")
            spelled = self._spell_bytes(run_bytes) if NOT_TEXT.match(run) else self._spell_text(run, run_bytes)
            ids.append(spelled[0])
            starts.append(np.where(spelled[1] < 0, -1, spelled[1] + offset))
            offset += len(run_bytes)
        return np.concatenate(ids).astype(np.int32), np.concatenate(starts).astype(np.int64)

    def _spell_text(self, text: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        pieces = self._encode_bare(text) if text else []
        ids = np.asarray(pieces, dtype=np.int64)
        lengths = self.lengths[ids]
        starts = np.cumsum(lengths) - lengths
        return ids, np.where(lengths > 0, _offsets_in(data, self.join(pieces), starts), -1)

    def _spell_bytes(self, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        ids, starts, offset = [], [], 0
        while offset < len(data):
            index = self._longest_match(data[offset:])
            if index >= 0:
                ids.append(index)
                starts.append(offset)
            offset += len(self.values[index]) if index >= 0 else 1
        return np.array(ids, dtype=np.int64), np.array(starts, dtype=np.int64)

    def _longest_match(self, data: bytes) -> int:
        for length in range(min(len(data), self._longest), 0, -1):
            if data[:length] in self.ids:
                return self.ids[data[:length]]
        return -1

    @cached_property
    def _longest(self) -> int:
        return int(self.lengths.max(initial=0))

    @cached_property
    def _num_sentinels(self) -> int:
        """The number of the sentinel's tokens if the tokenizer puts a space before texts (SentencePiece), else 0."""
        lone = next((value for value in self.values if value.isalpha() and value.isascii()), b"")
        padded = self.join(self.encode(lone.decode())) == b" " + lone
        return len(self.encode(SENTINEL)) if padded else 0

    def _encode_bare(self, text: str) -> Sequence[int]:
        """Returns the ids of `encode` without the space that some tokenizers put in front."""
        if self._num_sentinels:
            ids = self.encode(SENTINEL + text)
            if list(ids[: self._num_sentinels]) == list(self.encode(SENTINEL)):
                return ids[self._num_sentinels :]
        return self.encode(text)


def _offsets_in(data: bytes, written: bytes, starts: np.ndarray) -> np.ndarray:
    """Returns the offsets in `data` of the offsets `starts` (M,) in `written`; -1 in words that differ.

    Between the first and the last difference words are matched by their index, if both have as many words.
    """
    if data == written:
        return starts
    a, b = np.frombuffer(data, np.uint8), np.frombuffer(written, np.uint8)
    size = min(len(a), len(b))
    prefix = _run_of_equals(a[:size], b[:size])
    suffix = _run_of_equals(a[::-1][: size - prefix], b[::-1][: size - prefix])
    places = np.full(len(b) + 1, -1, np.int64)
    places[: prefix + 1] = np.arange(prefix + 1)
    places[len(b) - suffix :] = np.arange(len(a) - suffix, len(a) + 1)
    ours, theirs = data[prefix : len(a) - suffix].split(b" "), written[prefix : len(b) - suffix].split(b" ")
    if len(ours) == len(theirs):
        i = j = prefix
        for mine, other in zip(ours, theirs, strict=True):
            if mine == other:
                space = 1 if j > prefix else 0  # the one in front, with which many tokens begin
                places[j - space : j + len(other) + 1] = np.arange(i - space, i + len(mine) + 1)
            i, j = i + len(mine) + 1, j + len(other) + 1
    return places[starts]


def _run_of_equals(a: np.ndarray, b: np.ndarray) -> int:
    different = np.flatnonzero(a != b)
    return int(different[0]) if len(different) else len(a)


def _special_tokens(tokenizer: Any, vocabulary: Mapping[str, int]) -> dict[int, str]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ids = set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}
    return {i: token for token, i in vocabulary.items() if i in ids}


def _encoder(tokenizer: Any) -> Callable[[str], Sequence[int]]:
    # a text that contains the string of a special token must not become that token
    options = {"split_special_tokens": True} if hasattr(tokenizer, "split_special_tokens") else {}
    return lambda text: tokenizer.encode(text, add_special_tokens=False, **options)


def _byte_alphabet() -> dict[str, int]:
    """The byte of each character of byte-level BPE (GPT-2). Printable bytes are themselves, others are from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([BYTE_ALPHABET[character] for character in token])
    except KeyError:  # a token outside the alphabet is plain text
        return token.encode()


def _sentencepiece(token: str) -> bytes:
    byte = BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()


def _find_spelling(tokenizer: Any, vocabulary: Mapping[str, int]) -> Spelling:
    """Returns the alphabet in which most of the probed tokens spell what `decode` makes of them."""
    anchor = next((token for token in vocabulary if token.isalnum() and token.isascii()), None)
    if anchor is None:  # no word to probe with; byte-level reads the ASCII of plain text too
        return _byte_level
    tokens = list(vocabulary)
    foreign = [token for token in tokens if not token.isascii()]
    probes = [t for some in (tokens, foreign) for t in some[:: max(1, len(some) // NUM_PROBES)]]
    # decoded behind a word, because decoders drop the space in front of a text
    decoded = {t: _essence(tokenizer.decode([vocabulary[anchor], vocabulary[t]])) for t in probes}
    shares = {}
    for spelling in (_byte_level, _sentencepiece, str.encode):
        texts = {t: _essence((anchor.encode() + spelling(t)).decode("utf-8", "replace")) for t in decoded}
        shares[spelling] = sum(texts[t] == decoded[t] for t in decoded) / len(decoded)
    best = max(shares, key=lambda spelling: shares[spelling])
    if shares[best] < MIN_READABLE_SHARE:
        raise ValueError(
            f"the tokens of {type(tokenizer).__name__} must be in byte-level BPE's alphabet, in SentencePiece's or in "
            f"plain text, but only {shares[best]:.0%} of those probed decode so: build TokenBytes from your own bytes"
        )
    return best


def _essence(text: str) -> str:
    """Returns the text without spaces and signs for broken characters, which decoders treat differently."""
    return "".join(text.replace("\ufffd", "").split())
