"""Servers in trouble: asked again while there is time, then an error; nothing wrong becomes a score."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.core.teachers.served_teacher import Answer, ServedTeacher, Start
from tests.scoring import given, request
from tgpo_ray.models import Want
from tgpo_ray.teachers.backends.json_server import ServerError


@pytest.mark.parametrize(
    "trouble",
    [[(429, {})], [(500, {})], [(503, b"")], [(200, None)], [(500, {}), (200, None)]],
    ids=["429", "500", "503", "cut", "500 and cut"],
)
def test_a_busy_or_broken_server_is_asked_again(start_backend: Start, server: ServedTeacher, trouble: list[Answer]):
    backend = start_backend()
    server.answers = [*trouble]
    (scores,) = backend.score([request([1, 2], 1)], Want(argmax=True))
    assert given(scores.argmax_ids).tolist() == [3]
    assert len(server.bodies()) == len(trouble) + 1


def test_a_server_that_stays_broken_is_given_up_at_the_deadline(start_backend: Start, server: ServedTeacher):
    backend = start_backend(timeout_s=0.6)
    server.answers = [(500, {"error": "out of memory"})] * 50
    began = time.monotonic()
    with pytest.raises(ServerError, match=r"no answer in time after \d tries: status 500: .*out of memory"):
        backend.score([request([1, 2], 1)], Want(argmax=True))
    assert time.monotonic() - began < 2.0


def test_a_server_that_hangs_is_given_up_at_the_deadline(start_backend: Start, server: ServedTeacher):
    backend = start_backend(timeout_s=0.5)
    server.pause_s = 1.0
    with pytest.raises(ServerError, match=r"no answer in time after 1 tries: .*timed out"):
        backend.score([request([1, 2], 1)], Want(argmax=True))


def test_a_refusal_is_final_and_passed_on(start_backend: Start, server: ServedTeacher):
    backend = start_backend()
    server.answers = [(400, {"error": {"message": "maximum context length is 64 tokens"}})]
    with pytest.raises(ServerError, match=r"status 400: .*maximum context length is 64 tokens"):
        backend.score([request([1, 2], 1)], Want(argmax=True))
    assert len(server.bodies()) == 1


def row(**entries: float) -> dict[str, Any]:
    return {name.removeprefix("id_"): {"logprob": value, "rank": 1} for name, value in entries.items()}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([None], "returned 1 prompt_logprobs for 2 tokens"),
        ([None, row(id_2=-1.0), row(id_2=-1.0)], "returned 3 prompt_logprobs for 2 tokens"),
        ([None, row(id_7=-1.0)], "do not name the token 2 that was sent"),
        ([None, row(id_2=float("nan"))], "gives token 2 the log-prob nan"),
        ([None, row(id_2=-1.0, id_3=float("inf"))], "gives token 3 the log-prob inf"),
        ([None, row(id_2=-9999.0)], "gives token 2 the log-prob -9999"),
        ([None, row(id_2=0.5)], "gives token 2 the log-prob 0.5"),
        ([None, {"2": {"logprob": -1.0}, "-4": {"logprob": -2.0}}], "gives token -4 the log-prob -2"),
        ([None, {"two": {"logprob": -1.0}}], "are not ids with log-probs"),
        ([None, {"2": -1.0}], "are not ids with log-probs"),
        ([None, None], "are not ids with log-probs"),
    ],
)
def test_garbage_is_an_error_and_no_score(start_backend: Start, server: ServedTeacher, rows: list[Any], message: str):
    backend = start_backend()
    server.answers = [(200, {"choices": [{"prompt_logprobs": rows}]})]
    with pytest.raises(ServerError, match=message):
        backend.score([request([1, 2], 1)], Want(argmax=True))


def test_fewer_best_tokens_than_asked_for_is_an_error(start_backend: Start, server: ServedTeacher):
    backend = start_backend()
    server.answers = [(200, {"choices": [{"prompt_logprobs": [None, row(id_2=-1.0)]}]})]
    with pytest.raises(ServerError, match="named 1 tokens where 4 were asked for"):
        backend.score([request([1, 2], 1)], Want(top_k=4))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<html>", "the answer is not JSON: '<html>'"), ({"choices": []}, "no 1 choices"), ([], "no 1 choices")],
)
def test_an_answer_that_is_none_is_an_error(start_backend: Start, server: ServedTeacher, content: Any, message: str):
    backend = start_backend()
    server.answers = [(200, content)]
    with pytest.raises(ServerError, match=message):
        backend.score([request([1, 2], 1)], Want(argmax=True))


def test_one_bad_request_of_many_ends_the_call_and_the_next_one_works(start_backend: Start, server: ServedTeacher):
    backend = start_backend(max_num_seqs=1)
    server.answers = [(400, {})]
    with pytest.raises(ServerError):
        backend.score([request([1, i], 1) for i in range(6)], Want(argmax=True))
    (scores,) = backend.score([request([1, 2], 1)], Want(argmax=True))
    assert given(scores.argmax_ids).tolist() == [3]
    assert len(server.bodies()) < 5  # what waited was not sent
