"""The interface between a teacher and its model. Token ids go in and flat arrays come out, in the teacher's own ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tgpo_ray.models.engine_spec import Completion, Sampling

if TYPE_CHECKING:
    from tgpo_ray.models.tokenizer import VocabularyTokenizer

MAX_TOP_K = 128
SCORED_INDEX = "tgpo_scored_index"  # marks a prefill of `Engine.score`, with the index of its request


@dataclass(frozen=True)
class Want:
    """The fields that an algorithm wants from a scorer, parsed from names such as `argmax`, `logprob` or `topk:20`."""

    argmax: bool = False
    logprob: bool = False
    sample: bool = False
    hidden: bool = False
    top_k: int = 0

    @classmethod
    def parse(cls, names: Collection[str]) -> Want:
        """Returns the fields with these names.

        Raises:
            ValueError: an unknown name, a top-k outside 1..128, or both `argmax` and `sample`.
        """
        top_k = 0
        for name in names:
            kind, _, number = name.partition(":")
            if kind == "topk" and number.isdigit() and 1 <= int(number) <= MAX_TOP_K:
                top_k = int(number)
            elif name not in ("argmax", "logprob", "sample", "hidden"):
                raise ValueError(
                    "a teacher offers 'argmax', 'sample', 'logprob', 'hidden' and 'topk:k' with k in "
                    f"1..{MAX_TOP_K}, got {name!r}"
                )
        if "argmax" in names and "sample" in names:
            raise ValueError("a teacher's token is its 'argmax' or its 'sample', got both: ask for one of them")
        return cls("argmax" in names, "logprob" in names, "sample" in names, "hidden" in names, top_k)


def needs_distribution(want: Want) -> bool:
    """Returns whether the logits must be normalised. An argmax does not need that."""
    return bool(want.logprob or want.sample or want.top_k)


def needs_logits(want: Want) -> bool:
    """Returns whether the LM head must run. Hidden states do not need it."""
    return want.argmax or needs_distribution(want)


@dataclass(frozen=True)
class ScoringRequest:
    """One sequence of M ids to read. The R = M - first ids from `first` on are scored.

    The requests of one call come from one group. Requests with equal `ids[:first]` share their prompt.
    """

    ids: np.ndarray  # (M,) int32
    first: int  # at least 1: the first token of a sequence has no prediction


@dataclass(frozen=True)
class Scores:
    """The model's predictions of the R scored tokens of one request. Row r predicts `ids[first + r]`.

    A field that the call did not want is None.
    """

    argmax_ids: np.ndarray | None = None  # (R,) int32
    sampled_ids: np.ndarray | None = None  # (R,) int32, drawn at temperature 1
    logprobs: np.ndarray | None = None  # (R,) float32, of the token at that position
    topk_ids: np.ndarray | None = None  # (R, k) int32, best first
    topk_logprobs: np.ndarray | None = None  # (R, k) float32
    hidden: np.ndarray | None = None  # (R, D) float32, final hidden states as the LM head reads them


class ScoringBackend(Protocol):
    """A model that scores and writes: vLLM or transformers in this process, or a server elsewhere."""

    @property
    def tokenizer(self) -> VocabularyTokenizer:
        """The model's own tokenizer, with Hugging Face's interface."""
        ...

    def score(self, requests: Sequence[ScoringRequest], want: Want) -> list[Scores]:
        """Returns one Scores a request, in their order.

        Raises:
            ValueError: the backend does not have a wanted field. The message says which backend has it.
        """
        ...

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, n: int = 1) -> list[list[Completion]]:
        """Returns n responses to each prompt, in the model's own ids."""
        ...

    def stop(self) -> None:
        """Close what is open. A second call does nothing."""
        ...
