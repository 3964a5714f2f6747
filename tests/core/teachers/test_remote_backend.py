"""A served teacher: against a small server of the same JSON whose behaviour a test chooses, and against a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.core.teachers.served_teacher import (
    SYMBOLS,
    ServedTeacher,
    Start,
    engine,
    logprob,
    spec_of,
)
from tests.scoring import given, request
from tgpo_ray.models import Want, character_tokenizer
from tgpo_ray.models.engine_spec import Sampling
from tgpo_ray.teachers import TeacherSpec
from tgpo_ray.teachers.backends.json_server import ServerError
from tgpo_ray.teachers.backends.remote_backend import PROBE, RemoteBackend
from tgpo_ray.teachers.spec import ServerSpec
from tgpo_ray.teachers.teacher import backend_of

# ---- what it says


def test_scores_are_those_of_the_response_tokens_alone(start_backend: Start, server: ServedTeacher):
    (scores,) = start_backend().score([request([3, 5, 7, 2], 2)], Want(argmax=True, logprob=True))
    assert given(scores.argmax_ids).tolist() == [8, 3]  # one above 7 and 2
    np.testing.assert_allclose(given(scores.logprobs), [logprob(7, 8), logprob(2, 3)])
    assert scores.topk_ids is scores.topk_logprobs is None
    (body,) = server.bodies()
    assert (body["model"], body["prompt"], body["max_tokens"]) == ("teacher", [3, 5, 7, 2], 1)
    assert body["prompt_logprobs"] == 1
    # what the server would otherwise take from the model's folder
    assert (body["top_k"], body["repetition_penalty"]) == (0, 1.0)


def test_the_best_k_are_sorted_and_leave_the_token_itself_out_unless_it_is_among_them(start_backend: Start):
    (scores,) = start_backend().score([request([3, 5, 7], 1)], Want(top_k=3))
    assert given(scores.topk_ids).tolist() == [[6, 7, 8], [8, 9, 10]]
    np.testing.assert_allclose(given(scores.topk_logprobs), [[-0.5, -1.5, -2.5]] * 2)
    assert scores.argmax_ids is scores.logprobs is None


def test_of_equal_log_probs_the_lower_rank_is_the_best(start_backend: Start, server: ServedTeacher):
    backend = start_backend()
    row = {"4": {"logprob": -1.0, "rank": 2}, "9": {"logprob": -1.0, "rank": 1}}
    server.answers = [(200, {"choices": [{"prompt_logprobs": [None, row]}]})]
    (scores,) = backend.score([request([1, 4], 1)], Want(argmax=True))
    assert given(scores.argmax_ids).tolist() == [9]


def test_requests_are_in_flight_together_up_to_a_bound_and_come_back_in_order(
    start_backend: Start, server: ServedTeacher
):
    backend = start_backend(max_num_seqs=3)
    server.pause_s = 0.05
    scores = backend.score([request([1, i], 1) for i in range(9)], Want(argmax=True))
    assert [given(one.argmax_ids).tolist() for one in scores] == [[i + 1] for i in range(9)]
    assert 1 < server.most_open <= 3


def test_a_response_of_no_tokens_asks_nobody(start_backend: Start, server: ServedTeacher):
    (scores,) = start_backend().score([request([1, 2], 2)], Want(argmax=True, logprob=True, top_k=2))
    assert [len(given(values)) for values in (scores.argmax_ids, scores.logprobs, scores.topk_ids)] == [0, 0, 0]
    assert server.bodies() == []


@pytest.mark.parametrize("want", [Want(sample=True), Want(hidden=True)])
def test_what_no_server_gives_is_refused_with_the_backend_that_does(start_backend: Start, want: Want):
    with pytest.raises(ValueError, match="backends vllm and transformers do"):
        start_backend().score([request([1, 2], 1)], want)


# ---- the start


def test_a_server_with_several_models_is_asked_for_the_named_one(start_backend: Start, server: ServedTeacher):
    server.models = ["base", "adapter"]
    start_backend(served_model="adapter").score([request([1, 2], 1)], Want(argmax=True))
    assert server.bodies()[-1]["model"] == "adapter"
    with pytest.raises(ValueError, match=r"has no model '/.*', it serves base, adapter: name one of them as `served"):
        start_backend()
    with pytest.raises(ValueError, match="has no model 'other', it serves base, adapter"):
        start_backend(served_model="other")


def test_another_tokenizer_is_noticed_at_the_start(start_backend: Start, server: ServedTeacher):
    server.tokenizer = character_tokenizer(SYMBOLS[::-1])
    with pytest.raises(
        ValueError, match=r"serves 'teacher' with another tokenizer than .*: name the served model's own"
    ):
        start_backend()


def test_a_server_without_tokenize_is_taken_at_its_prompt_log_probs(start_backend: Start, server: ServedTeacher):
    server.has_tokenize = False
    start_backend()
    probes = [body["prompt"] for path, _, body in server.asked if path == "/v1/completions"]
    assert probes == [server.tokenizer.encode(PROBE)]


def test_a_server_of_another_dialect_is_refused_at_the_start(start_backend: Start, server: ServedTeacher):
    strings = {"tokens": ["a", "b"], "token_logprobs": [None, -1.0]}
    server.answers = [(200, {"choices": [{"text": "", "logprobs": strings}]})]
    with pytest.raises(ValueError, match="returned no prompt_logprobs: a served teacher has to speak vLLM's dialect"):
        start_backend()


def test_something_else_than_a_model_server_is_refused(start_backend: Start, server: ServedTeacher):
    server.reply = lambda path, body: (200, {"hello": "world"})  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="/v1/models lists no models: is it an OpenAI-compatible server"):
        start_backend()


def test_nobody_at_the_address_is_an_error_with_the_address(tmp_path: Path):
    character_tokenizer(SYMBOLS).save_pretrained(tmp_path)
    with pytest.raises(ServerError, match=r"http://127.0.0.1:9/v1/models: no answer in time after 1 tries"):
        RemoteBackend(engine(str(tmp_path)), ServerSpec("http://127.0.0.1:9/v1", timeout_s=0.2))
    with pytest.raises(ValueError, match="url must begin with http:// or https://, got 'localhost:8000'"):
        RemoteBackend(engine(str(tmp_path)), ServerSpec("localhost:8000"))


def test_the_key_of_the_environment_goes_along(
    start_backend: Start, server: ServedTeacher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    start_backend()
    assert all(headers["Authorization"] is None for _, headers, _ in server.asked)
    monkeypatch.setenv("TEACHER_KEY", "abc")
    start_backend(api_key_env="TEACHER_KEY")
    assert server.asked[-1][1]["Authorization"] == "Bearer abc"
    with pytest.raises(ValueError, match="the environment variable NO_SUCH_KEY is not set where the teacher runs"):
        start_backend(api_key_env="NO_SUCH_KEY")


def test_a_spec_leads_to_this_backend(server: ServedTeacher, tmp_path: Path):
    character_tokenizer(SYMBOLS).save_pretrained(tmp_path)
    spec = TeacherSpec(engine(str(tmp_path)), str(tmp_path), backend="remote", server=spec_of(server))
    backend = backend_of(spec)
    assert isinstance(backend, RemoteBackend)
    assert backend.tokenizer.get_vocab() == server.tokenizer.get_vocab()
    backend.stop()


# ---- traces


def test_traces_come_back_as_ids_with_their_log_probs(start_backend: Start, server: ServedTeacher):
    found = start_backend().generate([[1, 2], [3]], Sampling(max_tokens=3, logprobs=True, stop=("x",)), n=2)
    assert [[one.token_ids.tolist() for one in each] for each in found] == [[[2] * 3] * 2, [[3] * 3] * 2]
    np.testing.assert_allclose(given(found[0][0].logprobs), [-0.25] * 3)
    assert found[0][0].stop_reason == "length"
    body = server.bodies()[0]
    assert (body["n"], body["stop"], body["include_stop_str_in_output"]) == (2, ["x"], True)


def test_greedy_traces_are_asked_for_once(start_backend: Start, server: ServedTeacher):
    ((*completions,),) = start_backend().generate([[1]], Sampling(max_tokens=2, temperature=0.0), n=3)
    assert len(completions) == 3
    assert completions[0].logprobs is None
    assert [body["n"] for body in server.bodies()] == [1]


@pytest.mark.parametrize(("temperature", "top_p"), [(0.7, 1.0), (1.0, 0.9)])
def test_log_probs_that_depend_on_the_servers_settings_are_refused(
    start_backend: Start, temperature: float, top_p: float
):
    with pytest.raises(ValueError, match=r"log-probs of a served teacher need temperature 1.0 and top_p 1.0"):
        start_backend().generate([[1]], Sampling(2, temperature, top_p, logprobs=True))


@pytest.mark.parametrize(
    "wrong",
    [
        {"text": "no ids"},
        {"token_ids": [1, -1], "logprobs": {"token_logprobs": [-1.0, -1.0]}},
        {"token_ids": [1, 2]},
        {"token_ids": [1, 2], "logprobs": {"token_logprobs": [-1.0]}},
        {"token_ids": [1], "logprobs": {"token_logprobs": [float("nan")]}},
    ],
)
def test_a_trace_of_garbage_is_an_error(start_backend: Start, server: ServedTeacher, wrong: dict[str, Any]):
    backend = start_backend()
    server.answers = [(200, {"choices": [wrong]})]
    with pytest.raises(ServerError, match="the server returned no"):
        backend.generate([[1]], Sampling(max_tokens=2, logprobs=True))
