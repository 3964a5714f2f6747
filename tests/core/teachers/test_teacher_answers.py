"""What a teacher may not answer, and what it need not compute twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.episodes import make_episode
from tgpo_ray.episode import EpisodeGroup, Guidance
from tgpo_ray.models import Scores, ScoringRequest, Want
from tgpo_ray.teachers import CachingBackend, flaw_of

TWO = EpisodeGroup((make_episode(prompt=[1], response=[2, 3]), make_episode(prompt=[1], response=[4])))
NUM_IDS = 9


def ids(*values: int) -> np.ndarray:
    return np.asarray(values, np.int32)


def floats(*values: float) -> np.ndarray:
    return np.asarray(values, np.float32)


GOOD = Guidance(
    teacher_ids=ids(0, 8),
    teacher_logprobs=floats(-0.5, 1e-6),
    topk_ids=ids(0, -1, 8, 2).reshape(2, 2),
    topk_logprobs=floats(-1, -2, -3, -30).reshape(2, 2),
    hidden=floats(1e4, -1e4).reshape(2, 1),
    values=floats(3.0, -3.0),
)


def test_a_sound_answer_has_no_flaw():
    assert flaw_of([GOOD, Guidance(teacher_ids=ids(-1))], TWO, NUM_IDS) == ""
    empty = EpisodeGroup((make_episode(prompt=[1], response=[]),))
    assert flaw_of([Guidance(teacher_ids=ids(), teacher_logprobs=floats())], empty, NUM_IDS) == ""


@pytest.mark.parametrize(
    ("second", "flaw"),
    [
        (Guidance(teacher_ids=ids()), "teacher_ids has 0 rows for 1 response tokens"),
        (Guidance(topk_logprobs=floats(-1, -1).reshape(2, 1)), "topk_logprobs has 2 rows for 1 response tokens"),
        (Guidance(teacher_ids=ids(9)), "teacher_ids reach from 9 to 9, the policy has ids 0..8"),
        (Guidance(topk_ids=ids(3, -2).reshape(1, 2)), "topk_ids reach from -2 to 3, the policy has ids 0..8"),
        (Guidance(teacher_ids=floats(3.0)), "teacher_ids are float32, not whole numbers"),
        (Guidance(teacher_logprobs=floats(0.01)), "teacher_logprobs holds 0.01, above 0"),
        (Guidance(topk_logprobs=floats(-1, 2).reshape(1, 2)), "topk_logprobs holds 2, above 0"),
        (Guidance(hidden=floats(np.inf).reshape(1, 1)), "hidden holds a number that is not finite"),
        (Guidance(values=floats(np.nan)), "values holds a number that is not finite"),
    ],
)
def test_one_bad_row_of_one_episode_is_named(second: Guidance, flaw: str):
    assert flaw_of([GOOD, second], TWO, NUM_IDS) == flaw


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_not_accepted(value: float):
    assert "not finite" in flaw_of([GOOD, Guidance(teacher_logprobs=floats(value))], TWO, NUM_IDS)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_there_is_one_answer_an_episode(count: int):
    assert flaw_of([GOOD] * count, TWO, NUM_IDS) == f"{count} answers to 2 episodes"


# ---- the cache


class Recording:
    """Scores that follow from the ids, and a list of what was asked."""

    tokenizer: Any = None

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def score(self, requests: Sequence[ScoringRequest], want: Want) -> list[Scores]:
        self.asked += [request.ids.tolist() for request in requests]
        return [Scores(argmax_ids=request.ids[request.first :] + 1) for request in requests]

    def generate(self, prompts: Any, sampling: Any, *, n: int = 1) -> Any:
        raise NotImplementedError

    def stop(self) -> None:
        self.asked = []


ARGMAX = Want(argmax=True)
A, B, C = (ScoringRequest(ids(1, *range(i, i + 4)), 1) for i in (10, 20, 30))
MEMORY_OF_TWO = 2 * (16 + 256)  # four int32 ids, and what a dataclass and its key take


def said(scores: Sequence[Scores]) -> list[Any]:
    return [None if it.argmax_ids is None else it.argmax_ids.tolist() for it in scores]


def test_equal_ids_are_scored_once_and_answers_keep_their_order():
    backend = Recording()
    cache = CachingBackend(backend, 10**6)
    fresh = said(Recording().score([A, B, A], ARGMAX))
    assert said(cache.score([A, B, A], ARGMAX)) == fresh
    assert backend.asked == [A.ids.tolist(), B.ids.tolist()]
    assert said(cache.score([B, C, A], ARGMAX)) == said(Recording().score([B, C, A], ARGMAX))
    assert backend.asked[2:] == [C.ids.tolist()]
    assert cache.num_hits == 3


def test_another_want_or_another_start_is_another_question():
    backend = Recording()
    cache = CachingBackend(backend, 10**6)
    cache.score([A], ARGMAX)
    cache.score([A], Want(argmax=True, logprob=True))
    cache.score([ScoringRequest(A.ids, 2)], ARGMAX)
    assert (len(backend.asked), cache.num_hits) == (3, 0)


@pytest.mark.parametrize("want", [Want(sample=True), Want(argmax=True, hidden=True)])
def test_random_draws_and_hidden_states_are_not_kept(want: Want):
    backend = Recording()
    cache = CachingBackend(backend, 10**6)
    cache.score([A, A], want)
    cache.score([A], want)
    assert (len(backend.asked), cache.num_hits) == (3, 0)


def test_what_was_not_used_for_longest_is_forgotten_first():
    backend = Recording()
    cache = CachingBackend(backend, MEMORY_OF_TWO)
    cache.score([A], ARGMAX)
    cache.score([B], ARGMAX)
    cache.score([A], ARGMAX)
    cache.score([C], ARGMAX)  # B goes
    assert len(backend.asked) == 3
    cache.score([A, C], ARGMAX)
    assert len(backend.asked) == 3
    cache.score([B], ARGMAX)
    assert backend.asked[3:] == [B.ids.tolist()]


def test_a_group_larger_than_the_memory_is_answered_all_the_same():
    cache = CachingBackend(Recording(), MEMORY_OF_TWO // 2)
    assert said(cache.score([A, B, C, A], ARGMAX)) == said(Recording().score([A, B, C, A], ARGMAX))
    cache = CachingBackend(Recording(), 0)
    assert said(cache.score([A, A], ARGMAX)) == said(Recording().score([A, A], ARGMAX))
    assert cache.num_hits == 0
