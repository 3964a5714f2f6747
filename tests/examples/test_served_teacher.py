"""A real vLLM server as the teacher, pools of the backends that are not vLLM's, and the example of a served teacher."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import requests as requests_library

from tests.core.teachers.served_teacher import Answer, serving
from tests.core.vllm_server import vllm_server
from tests.episodes import make_episode, stored_group
from tests.paths import ROOT
from tests.scoring import given
from tgpo_ray.episode import Guidance, SampledGroup
from tgpo_ray.models import Scores, ScoringRequest, Want
from tgpo_ray.models.engine_spec import EngineSpec, Sampling
from tgpo_ray.teachers import (
    GroupRequest,
    Scoring,
    ScoringCounts,
    ServerSpec,
    TeacherGroup,
    TeacherSpec,
    annotate,
)
from tgpo_ray.teachers.backends.json_server import ServerError
from tgpo_ray.teachers.backends.remote_backend import RemoteBackend
from tgpo_ray.teachers.backends.transformers_backend import TransformersBackend

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]
BOUND = 1e-4  # vLLM and transformers sum in another order


@pytest.fixture(scope="module")
def url(tiny_models: dict[str, str]) -> Iterator[str]:
    with vllm_server(tiny_models["teacher"], "big", "--api-key", "abc") as address:
        yield address


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TEACHER_KEY", "abc")
    return "TEACHER_KEY"


def engine(folder: str) -> EngineSpec:
    return EngineSpec(folder, "float32", max_model_len=64, kv_cache_memory=0, max_num_seqs=8)


@pytest.fixture
def backend(url: str, key: str, tiny_models: dict[str, str]) -> Iterator[RemoteBackend]:
    backend = RemoteBackend(engine(tiny_models["teacher"]), ServerSpec(url, api_key_env=key))
    yield backend
    backend.stop()


@pytest.fixture(scope="module")
def local(tiny_models: dict[str, str]) -> TransformersBackend:
    """The same model, in this process."""
    return TransformersBackend(engine(tiny_models["teacher"]))


def requests(size: int) -> list[ScoringRequest]:
    """Three prompts with four responses each; the first has no token."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, size, length) for length in (3, 9, 14)]
    responses = [rng.integers(2, size, length) for length in (0, 1, 12, 30)]
    return [
        ScoringRequest(np.concatenate([prompt, response]).astype(np.int32), len(prompt))
        for prompt in prompts
        for response in responses
    ]


def test_a_served_teacher_says_what_the_same_model_says_here(backend: RemoteBackend, local: TransformersBackend):
    asked = requests(len(local.tokenizer))
    want = Want(argmax=True, logprob=True, top_k=5)
    for theirs, ours in zip(backend.score(asked, want), local.score(asked, want), strict=True):
        np.testing.assert_allclose(given(theirs.logprobs), given(ours.logprobs), atol=BOUND)
        np.testing.assert_allclose(given(theirs.topk_logprobs), given(ours.topk_logprobs), atol=BOUND)
        np.testing.assert_array_equal(given(theirs.topk_ids)[:, 0], given(theirs.argmax_ids))
        assert_ids_but_for_ties(theirs, ours)


def assert_ids_but_for_ties(theirs: Scores, ours: Scores) -> None:
    gaps = -np.diff(given(ours.topk_logprobs), axis=1)[:, 0]  # (R,) between the best two
    clear = gaps > BOUND
    np.testing.assert_array_equal(given(theirs.argmax_ids)[clear], given(ours.argmax_ids)[clear])
    assert clear.all() or clear.mean() > 0.9


def test_traces_of_a_served_teacher_are_those_of_the_same_model_here(
    backend: RemoteBackend, local: TransformersBackend
):
    prompts = [[5, 6, 7], [8, 3]]
    greedy = Sampling(max_tokens=10, temperature=0.0, logprobs=True)
    for theirs, ours in zip(backend.generate(prompts, greedy, n=2), local.generate(prompts, greedy, n=2), strict=True):
        assert [one.token_ids.tolist() for one in theirs] == [one.token_ids.tolist() for one in ours]
        np.testing.assert_allclose(given(theirs[0].logprobs), given(ours[0].logprobs), atol=BOUND)
        assert theirs[0].stop_reason == ours[0].stop_reason
    ((*drawn,),) = backend.generate([[5, 6]], Sampling(max_tokens=6, logprobs=True), n=5)
    assert len({tuple(one.token_ids.tolist()) for one in drawn}) > 1
    assert all(len(given(one.logprobs)) == len(one.token_ids) <= 6 for one in drawn)


def test_what_the_server_refuses_is_passed_on(backend: RemoteBackend, url: str, tiny_models: dict[str, str]):
    long = ScoringRequest(np.full(80, 3, np.int32), 4)
    with pytest.raises(ServerError, match=r"status 400: .*(context|length)"):
        backend.score([long], Want(argmax=True))
    with pytest.raises(ServerError, match="status 400"):  # the server's own --max-logprobs is 20
        backend.score([ScoringRequest(np.full(8, 3, np.int32), 4)], Want(top_k=100))
    with pytest.raises(ServerError, match="status 401"):
        RemoteBackend(engine(tiny_models["teacher"]), ServerSpec(url))


# ---- pools


@pytest.fixture
def make_pool(ray_cluster: Any, tiny_models: dict[str, str]) -> Iterator[Callable[..., TeacherGroup]]:
    """make_pool(**fields of TeacherSpec) -> a pool of one replica that holds its model."""
    pools: list[TeacherGroup] = []

    def make(**options: Any) -> TeacherGroup:
        spec = TeacherSpec(engine(tiny_models["teacher"]), tiny_models["policy"], **options)
        pools.append(TeacherGroup(spec, num_cpus=0.5, max_unguided_share=1.0))
        pools[-1].wait_until_ready()
        return pools[-1]

    yield make
    for pool in pools:
        pool.stop()


def sampled_group(asked: list[ScoringRequest]) -> SampledGroup:
    episodes = [make_episode(prompt=one.ids[: one.first], response=one.ids[one.first :]) for one in asked]
    return stored_group(episodes=episodes)


def test_pools_of_both_backends_guide_a_group_alike(
    make_pool: Callable[..., TeacherGroup], local: TransformersBackend, url: str
):
    import ray

    asked = requests(len(local.tokenizer))[4:8]
    expected = local.score(asked, Want(argmax=True, logprob=True))
    # an actor's environment is that of the cluster, which has no key: the small server asks for none
    with serving() as server:
        server.reply = forwarded(url)  # pyright: ignore[reportAttributeAccessIssue]
        options = [{"backend": "transformers"}, {"backend": "remote", "server": ServerSpec(server.url)}]
        for pool in [make_pool(**fields) for fields in options]:
            (found,) = annotate([sampled_group(asked)], lambda _, pool=pool: pool, ["argmax", "logprob"])
            said: list[Guidance] = ray.get(found.guidance["teacher"])
            for guidance, scores in zip(said, expected, strict=True):
                np.testing.assert_allclose(given(guidance.teacher_logprobs), given(scores.logprobs), atol=BOUND)
            ids = np.concatenate([given(guidance.teacher_ids) for guidance in said])
            assert (ids == np.concatenate([given(scores.argmax_ids) for scores in expected])).mean() > 0.9


def forwarded(url: str) -> Callable[[str, dict[str, Any]], Answer]:
    """The small server as a proxy that knows the key."""

    def reply(path: str, body: dict[str, Any]) -> Answer:
        headers, method = {"Authorization": "Bearer abc"}, "POST" if body else "GET"
        answer = requests_library.request(method, url + path, json=body or None, headers=headers, timeout=60)
        return answer.status_code, answer.json()

    return reply


def scored(pool: TeacherGroup, group: SampledGroup) -> tuple[SampledGroup, ScoringCounts]:
    with Scoring() as scoring:
        scoring.submit(group, [GroupRequest("teacher", pool, ["argmax"])])
        (found,) = scoring.drain()
    return found, scoring.counts


def test_a_server_in_trouble_costs_the_guidance_of_a_group_and_is_counted(
    make_pool: Callable[..., TeacherGroup], local: TransformersBackend
):
    asked = requests(len(local.tokenizer))[1:4]
    with serving() as server:
        pool = make_pool(backend="remote", server=ServerSpec(server.url, timeout_s=1.0))
        works = server.reply
        garbage = {"choices": [{"prompt_logprobs": [None] * 3}]}
        for trouble in ((500, {}), (200, None), (200, garbage)):
            server.reply = lambda path, body, answer=trouble: answer  # pyright: ignore[reportAttributeAccessIssue]
            found, counts = scored(pool, sampled_group(asked))
            assert found.guidance == {}
            assert (counts.groups, counts.unguided, counts.retries, counts.restarts) == (1, 1, 1, 0)
        server.reply = works
        found, counts = scored(pool, sampled_group(asked))
        assert list(found.guidance) == ["teacher"]
        assert counts.unguided == 0


# ---- the example


def test_the_example_prints_the_teachers_tokens_beside_the_policys(url: str, key: str, tiny_models: dict[str, str]):
    command: list[Any] = [
        sys.executable, "examples/served_teacher/score.py", "--url", url, "--policy", tiny_models["policy"],
        "--teacher", tiny_models["teacher"], "--api-key-env", key, "--prompt", "12*3=", "--prompt", "4+5=",
        "--max-tokens", "9",
    ]  # fmt: skip
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("log p of the policy's token") == 4  # two prompts, two responses each
    assert found.stdout.count("'12*3='") == 2
    assert len(re.findall(r"agreement \d+%, mean log p -\d+\.\d+", found.stdout)) == 4
