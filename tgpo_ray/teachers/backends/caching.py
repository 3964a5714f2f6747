"""A cache of scores. The same ids get the same scores without the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import fields
from hashlib import blake2b
from typing import TYPE_CHECKING

from tgpo_ray.models import Completion, Sampling, Scores, ScoringBackend, ScoringRequest, Want

if TYPE_CHECKING:
    from tgpo_ray.models import VocabularyTokenizer


class CachingBackend:
    """A backend that stores the scores of another one by a hash of the ids, and drops the least recently used first.

    It hits where a group's responses are equal, where an iteration is repeated after a failure, and where an algorithm
    scores the same text again. A teacher's weights never change, so scores do not go stale. Random draws and hidden
    states are not stored.

    Args:
        memory: bytes of scores to store. 0 turns the cache off.
    """

    def __init__(self, backend: ScoringBackend, memory: int) -> None:
        self._backend = backend
        self._memory = memory
        self._known: OrderedDict[bytes, Scores] = OrderedDict()
        self._bytes = 0
        self.num_hits = 0  # sequences answered from the cache so far

    @property
    def tokenizer(self) -> VocabularyTokenizer:
        return self._backend.tokenizer

    def score(self, requests: Sequence[ScoringRequest], want: Want) -> list[Scores]:
        if not self._memory or want.sample or want.hidden:
            return self._backend.score(requests, want)
        fields_wanted = repr(want).encode()
        keys = [_key(request, fields_wanted) for request in requests]
        answers = {key: self._known[key] for key in keys if key in self._known}
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in answers}
        self.num_hits += len(requests) - len(missing)
        if missing:
            scores = self._backend.score(list(missing.values()), want)
            answers |= zip(missing, scores, strict=True)
        # stored only here: with little memory a store may drop an answer of this same call
        for key in keys:
            self._remember(key, answers[key])
        return [answers[key] for key in keys]

    def _remember(self, key: bytes, scores: Scores) -> None:
        if key not in self._known:
            self._bytes += _num_bytes(scores)
        self._known[key] = scores
        self._known.move_to_end(key)
        while self._bytes > self._memory:
            self._bytes -= _num_bytes(self._known.popitem(last=False)[1])

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, n: int = 1) -> list[list[Completion]]:
        return self._backend.generate(prompts, sampling, n=n)

    def stop(self) -> None:
        self._known.clear()
        self._bytes = 0
        self._backend.stop()


def _key(request: ScoringRequest, fields_wanted: bytes) -> bytes:
    """Returns the hash of a request. Equal ids split at another token have another hash."""
    digest = blake2b(request.ids.tobytes(), digest_size=16)
    digest.update(b"%d " % request.first + fields_wanted)
    return digest.digest()


def _num_bytes(scores: Scores) -> int:
    """Returns the memory that a cache entry takes."""
    arrays = (getattr(scores, field.name) for field in fields(scores))
    return sum(values.nbytes for values in arrays if values is not None) + 256  # key, dataclass, array headers
