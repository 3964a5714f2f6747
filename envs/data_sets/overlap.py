"""Which problems are the same text, and which have too much in common with a problem of an evaluation set."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

NGRAM = 8  # words and signs that two problems must share in a row before they are compared
MIN_COMMON = 13  # of the longest common subsequence
MIN_SHARE = 0.6  # of it in the shorter of the two

_IGNORED = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[,;:! ]|\$|~", re.IGNORECASE)
# written without blanks between words
_CJK = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_CJK}]|\\?[^\W\d_{_CJK}]+|\d+|[^\w\s]")
# NFKC makes plain digits of these, and joins them with the digits beside them
_SUPERSCRIPT = re.compile("[\u00b2\u00b3\u00b9\u2070\u2071\u2074-\u207f]+")
_APART = re.compile("[\u2080-\u208e]+|[\u00bc-\u00be\u2150-\u215f\u2189]|[\u2460-\u249b]")  # subscript, 1/2, circled
_FRACTION_SLASH = "\u2044"

Tokens = tuple[str, ...]


def tokens_of(text: str) -> Tokens:
    """The words, numbers and signs of a text, without case, blanks and the spacing of LaTeX.

    Chinese and Japanese characters are one each. A superscript 2 is `^2`, and 1 with the sign for a half is `1 1/2`.
    """
    text = _APART.sub(r" \g<0> ", _SUPERSCRIPT.sub(r"^\g<0> ", text))
    text = unicodedata.normalize("NFKC", text).replace(_FRACTION_SLASH, "/")
    return tuple(_TOKEN.findall(_IGNORED.sub(" ", text).lower()))


def fingerprint(tokens: Sequence[str]) -> bytes:
    """16 bytes that are the same for texts with the same tokens."""
    return hashlib.blake2b("\n".join(tokens).encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Overlap:
    """A problem of an evaluation set that a row has too much in common with."""

    name: str
    row: int  # its number in the evaluation set, from 0
    share: float  # of the shorter text that is common to both


@dataclass
class EvaluationProblems:
    """The problems of evaluation sets, to be found in other texts.

    A text overlaps with a problem if both have the same tokens, or if their longest common subsequence has at least
    `min_common` tokens and at least the share `min_share` of the shorter of the two (Qwen2.5 Technical Report, 2024,
    section 5). Only problems that have `ngram` tokens in a row in common with the text are compared.
    """

    ngram: int = NGRAM
    min_common: int = MIN_COMMON
    min_share: float = MIN_SHARE
    sizes: dict[str, int] = field(default_factory=dict)  # problems, by evaluation set
    _problems: list[tuple[str, int, Tokens]] = field(default_factory=list)
    _whole: dict[bytes, int] = field(default_factory=dict)
    _ngrams: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        if self.ngram < 1:
            raise ValueError(f"ngram must be >= 1, got {self.ngram}")
        if not 0 < self.min_share <= 1:
            raise ValueError(f"the overlap must be in (0, 1], got {self.min_share}: it is a share of the shorter text")

    def __len__(self) -> int:
        return len(self._problems)

    def add(self, name: str, texts: Iterable[str]) -> None:
        """Takes in the problems of one evaluation set."""
        for row, text in enumerate(texts):
            tokens, number = tokens_of(text), len(self._problems)
            self._problems.append((name, row, tokens))
            self._whole.setdefault(fingerprint(tokens), number)
            for key in self._keys(tokens):
                self._ngrams[key].append(number)
            self.sizes[name] = row + 1

    def overlap(self, tokens: Tokens) -> Overlap | None:
        """The problem that the text overlaps with most, or None."""
        same = self._whole.get(fingerprint(tokens))
        if same is not None:
            return self._found(same, 1.0)
        candidates = {number for key in self._keys(tokens) for number in self._ngrams.get(key, ())}
        best = max(((self._share(tokens, number), -number) for number in candidates), default=(0.0, 0))
        return self._found(-best[1], best[0]) if best[0] >= self.min_share else None

    def _share(self, tokens: Tokens, number: int) -> float:
        problem = self._problems[number][2]
        common = longest_common(tokens, problem)
        return common / min(len(tokens), len(problem)) if common >= self.min_common else 0.0

    def _found(self, number: int, share: float) -> Overlap:
        name, row, _ = self._problems[number]
        return Overlap(name, row, share)

    def _keys(self, tokens: Tokens) -> set[int]:
        # Python's own hash: it stays within this process, and a collision only costs a comparison
        return {hash(tokens[start : start + self.ngram]) for start in range(len(tokens) - self.ngram + 1)}


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence.

    Bit-parallel: a column of the table of the textbook is one integer (Crochemore, Iliopoulos, Pinzon, Reid: A fast
    and practical bit-vector algorithm for the longest common subsequence problem, 2001).
    """
    places: dict[str, int] = defaultdict(int)
    for number, token in enumerate(first):
        places[token] |= 1 << number
    everything = (1 << len(first)) - 1
    column = everything
    for token in second:
        matches = column & places.get(token, 0)
        column = ((column + matches) | (column - matches)) & everything
    return len(first) - column.bit_count()
