"""The transformers teacher says what one full forward pass says, whatever shares a prompt or a batch with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import SYMBOLS
from tests.episodes import make_episode
from tests.paths import ROOT
from tests.scoring import given
from tgpo_ray.episode import EpisodeGroup
from tgpo_ray.models import Scores, ScoringRequest, Want, character_tokenizer, write_model
from tgpo_ray.models.engine_spec import EngineSpec
from tgpo_ray.teachers import Teacher, TeacherSpec
from tgpo_ray.teachers.backends.chunked_head import head_scores
from tgpo_ray.teachers.backends.transformers_backend import TransformersBackend
from tgpo_ray.teachers.teacher import backend_of

SHAPE = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 256, "initializer_range": 0.2, "tie_word_embeddings": False,
}  # fmt: skip
SIZE = len(SYMBOLS) + 2
BOUND = 1e-5
ALL = Want(argmax=True, logprob=True, hidden=True, top_k=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "qwen2"
    return write_model(path, "qwen2", character_tokenizer(SYMBOLS), seed=3, **SHAPE)


def engine(folder: Path | str, **options: Any) -> EngineSpec:
    return EngineSpec(model=str(folder), dtype="float32", max_model_len=256, kv_cache_memory=0, **options)


@pytest.fixture(scope="module")
def backend(folder: Path) -> TransformersBackend:
    return TransformersBackend(engine(folder))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def ids(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SIZE, length).astype(np.int32)


def request(prompt: np.ndarray, response: np.ndarray) -> ScoringRequest:
    return ScoringRequest(np.concatenate([prompt, response]), len(prompt))


def group(prompt_length: int, lengths: Sequence[int], seed: int = 0) -> list[ScoringRequest]:
    """Responses of those lengths to one prompt."""
    prompt = ids(seed, prompt_length)
    return [request(prompt, ids(100 * seed + i + 1, length)) for i, length in enumerate(lengths)]


def assert_full_forward(model: Any, request: ScoringRequest, scores: Scores, k: int = 4) -> None:
    """`scores` are those of one unpadded forward pass over this request alone."""
    with torch.no_grad():
        output = model(torch.tensor([request.ids.tolist()]), output_hidden_states=True)
    rows = slice(request.first - 1, len(request.ids) - 1)
    logprobs, hidden = output.logits[0].log_softmax(-1)[rows], output.hidden_states[-1][0][rows]
    written = torch.tensor(request.ids[request.first :].tolist(), dtype=torch.long)
    expected = logprobs.gather(1, written[:, None])[:, 0]
    np.testing.assert_allclose(given(scores.logprobs), expected.numpy(), atol=BOUND)
    np.testing.assert_array_equal(given(scores.argmax_ids), logprobs.argmax(-1).numpy())
    np.testing.assert_allclose(given(scores.hidden), hidden.numpy(), atol=BOUND)
    best = logprobs.topk(k)
    np.testing.assert_array_equal(given(scores.topk_ids), best.indices.numpy())
    np.testing.assert_allclose(given(scores.topk_logprobs), best.values.numpy(), atol=BOUND)


def check(backend: TransformersBackend, model: Any, requests: list[ScoringRequest]) -> None:
    for asked, scores in zip(requests, backend.score(requests, ALL), strict=True):
        assert_full_forward(model, asked, scores)


# ---- what it says


@pytest.mark.parametrize(
    "lengths",
    [(9,), (9, 9), (17, 3, 40, 1), (1, 1, 1), (0, 5, 0), (1, 0), (0,), (0, 0)],
    ids=lambda lengths: "-".join(map(str, lengths)),
)
@pytest.mark.parametrize("prompt_length", [1, 12])
def test_a_group_is_scored_as_each_of_its_responses_alone(
    backend: TransformersBackend, model: Any, prompt_length: int, lengths: tuple[int, ...]
):
    check(backend, model, group(prompt_length, lengths))


def test_requests_of_several_prompts_come_back_in_their_order(backend: TransformersBackend, model: Any):
    first, second, lone = group(12, (5, 8, 1), seed=1), group(3, (30, 2), seed=2), group(7, (11,), seed=3)
    check(backend, model, [first[0], second[0], lone[0], first[1], second[1], first[2]])


@pytest.mark.parametrize("budget", [1, 30, 70])
def test_the_token_budget_changes_no_score(folder: Path, model: Any, budget: int):
    backend = TransformersBackend(engine(folder), token_budget=budget)
    check(backend, model, [*group(12, (5, 8, 1, 20)), *group(4, (3,), seed=1), *group(6, (9,), seed=2)])


def test_no_forward_pass_exceeds_the_budget_and_a_prompt_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    backend = TransformersBackend(engine(folder), token_budget=64)
    shapes: list[tuple[int, int]] = []
    forward = backend._forward

    def counted(sequences: Sequence[np.ndarray], **options: Any) -> Any:
        shapes.append((len(sequences), max(map(len, sequences))))
        return forward(sequences, **options)

    monkeypatch.setattr(backend, "_forward", counted)
    backend.score(group(20, (10, 9, 10, 2, 1)), Want(argmax=True))
    assert shapes[0] == (1, 20)  # the prompt, alone
    assert [width for _, width in shapes[1:]] == [9, 8]  # responses without their last tokens; lone ones need no pass
    assert all(rows * (20 + width) <= 64 for rows, width in shapes)


def test_only_what_is_wanted_is_there(backend: TransformersBackend):
    (scores,) = backend.score(group(4, (6,)), Want(argmax=True))
    assert {name for name, value in vars(scores).items() if value is not None} == {"argmax_ids"}
    (scores,) = backend.score(group(4, (6,)), Want(sample=True, hidden=True))
    assert {name for name, value in vars(scores).items() if value is not None} == {"sampled_ids", "hidden"}
    assert (given(scores.sampled_ids).dtype, given(scores.hidden).dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("want", [ALL, Want(sample=True)])
def test_nothing_to_score_gives_fields_of_no_rows(backend: TransformersBackend, want: Want):
    for scores in backend.score(group(4, (0, 0)), want):
        assert {len(values) for values in vars(scores).values() if values is not None} == {0}
    assert backend.score([], want) == []


def test_draws_follow_the_teachers_distribution_and_its_seed(folder: Path, model: Any):
    # 4000 draws of one distribution: each frequency lies within 5 standard errors of its probability
    asked = [request(ids(0, 5), ids(1, 1))] * 4000
    draws = [
        np.concatenate([given(scores.sampled_ids) for scores in backend.score(asked, Want(sample=True))])
        for backend in (TransformersBackend(engine(folder, seed=seed)) for seed in (1, 1, 2))
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    with torch.no_grad():
        expected = model(torch.tensor([ids(0, 5).tolist()])).logits[0, -1].softmax(-1).numpy()
    frequency = np.bincount(draws[0], minlength=SIZE) / len(asked)
    assert (np.abs(frequency - expected) <= 5 * np.sqrt(expected * (1 - expected) / len(asked)) + 1e-9).all()


@pytest.mark.parametrize("chunk_bytes", [1, 7 * SIZE * 4, None])
def test_chunks_of_the_head_change_no_number(chunk_bytes: int | None):
    generator = torch.Generator().manual_seed(0)
    hidden, targets = torch.randn(20, 6, generator=generator), torch.randint(0, SIZE, (20,), generator=generator)
    head = torch.nn.Linear(6, SIZE)
    with torch.inference_mode():
        scores = head_scores(head, hidden, targets, ALL, temperature=0.7, chunk_bytes=chunk_bytes)
        expected = (head(hidden) / 0.7).log_softmax(-1)
    np.testing.assert_allclose(
        given(scores.logprobs), expected.gather(1, targets[:, None])[:, 0].numpy(), rtol=0, atol=BOUND
    )
    np.testing.assert_array_equal(given(scores.argmax_ids), expected.argmax(-1).numpy())
    np.testing.assert_allclose(given(scores.topk_logprobs), expected.topk(4).values.numpy(), atol=BOUND)


# ---- other models


def test_a_sliding_window_shorter_than_the_prompt_is_honoured(tmp_path: Path):
    from transformers import AutoModelForCausalLM

    shape = {**SHAPE, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
    folder = write_model(tmp_path, "qwen2", character_tokenizer(SYMBOLS), seed=4, **shape)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    check(TransformersBackend(engine(folder)), model, group(15, (9, 3, 12)))


def test_a_model_without_keys_and_values_is_read_whole(tmp_path: Path):
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=SIZE, hidden_size=32, state_size=4, num_hidden_layers=1, initializer_range=0.2)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    character_tokenizer(SYMBOLS).save_pretrained(tmp_path)
    backend = TransformersBackend(engine(tmp_path))
    check(backend, backend._model, group(5, (9, 3)))


def test_overrides_reach_the_model_and_an_unknown_one_is_refused(folder: Path):
    asked = group(40, (30, 20))
    plain = TransformersBackend(engine(folder)).score(asked, Want(logprob=True))
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 40.0}}
    turned = TransformersBackend(engine(folder, hf_overrides=rope)).score(asked, Want(logprob=True))
    assert np.abs(given(plain[0].logprobs) - given(turned[0].logprobs)).max() > 1e-3
    with pytest.raises(ValueError, match=r"teacher.hf_overrides.rope_theta: Qwen2Config of .* has no such key"):
        TransformersBackend(engine(folder, hf_overrides={"rope_theta": 40.0}))


@pytest.mark.gpu
def test_a_gpu_says_the_same(folder: Path, model: Any):
    check(TransformersBackend(engine(folder), gpu=True), model, [*group(12, (5, 8, 1)), *group(4, (3,), seed=1)])


# ---- what it refuses


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (ScoringRequest(np.array([1, SIZE], np.int32), 1), rf"ids must be in \[0, {SIZE}\), the teacher's own"),
        (ScoringRequest(np.array([1, -1], np.int32), 1), "map the policy's ids to the teacher's vocabulary first"),
        (ScoringRequest(np.array([1, 2], np.int32), 0), r"`first` must be in 1..2, got 0: no token precedes it"),
        (ScoringRequest(np.array([1, 2], np.int32), 3), r"`first` must be in 1..2, got 3"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(backend: TransformersBackend, wrong: ScoringRequest, message: str):
    with pytest.raises(ValueError, match=message):
        backend.score([wrong], Want(argmax=True))


def test_more_best_tokens_than_the_vocabulary_has_are_refused(backend: TransformersBackend):
    with pytest.raises(
        ValueError, match=rf"topk:50 needs at least that many tokens, the teacher's vocabulary has {SIZE}"
    ):
        backend.score(group(3, (2,)), Want(top_k=50))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_gpu_that_is_not_there_is_named(folder: Path):
    with pytest.raises(ValueError, match="is to use a GPU, but torch sees none"):
        TransformersBackend(engine(folder), gpu=True)


# ---- as a teacher


def test_a_teacher_annotates_a_group(folder: Path, model: Any):
    spec = TeacherSpec(engine(folder), policy_tokenizer=str(folder), backend="transformers")
    lengths = enumerate((7, 1, 12), start=1)
    episodes = (make_episode(prompt=ids(0, 6), response=ids(i, length)) for i, length in lengths)
    members = EpisodeGroup(tuple(episodes))
    teacher = Teacher(spec)
    answers, verdict = teacher.annotate_checked(members, ["argmax", "logprob", "topk:4", "hidden"])
    assert verdict.flaw == ""
    for guidance, member in zip(answers, members.episodes, strict=True):
        scores = Scores(
            argmax_ids=guidance.teacher_ids, logprobs=guidance.teacher_logprobs, topk_ids=guidance.topk_ids,
            topk_logprobs=guidance.topk_logprobs, hidden=guidance.hidden,
        )  # fmt: skip
        assert_full_forward(model, request(member.prompt_ids, member.response_ids), scores)
    drawn, verdict = teacher.annotate_checked(members, ["sample"])
    assert verdict.flaw == ""
    assert [len(given(guidance.teacher_ids)) for guidance in drawn] == [7, 1, 12]
    teacher.stop()


def test_the_token_budget_of_a_spec_reaches_the_backend(folder: Path):
    spec = TeacherSpec(engine(folder), policy_tokenizer=str(folder), backend="transformers", token_budget=33)
    backend = backend_of(spec)
    assert isinstance(backend, TransformersBackend)
    assert backend._budget == 33


def test_a_machine_without_vllm_and_ray_can_use_it():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('vllm', 'ray', 'deepspeed', 'pydantic')))\n"
        "import tgpo_ray.teachers.backends.transformers_backend, tgpo_ray.teachers"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
