"""Real teachers: what they say is what transformers says, in the policy's ids, at the right position."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import ray
import torch

from tests.conftest import SYMBOLS
from tests.core.model_answers import forced_logprobs, guided, load, process_of
from tests.episodes import make_episode, stored_group
from tgpo_ray.episode import SampledGroup, Task
from tgpo_ray.guidance import UNREADABLE_LOGPROB
from tgpo_ray.models import Want, character_tokenizer, write_model
from tgpo_ray.models.engine_spec import Sampling
from tgpo_ray.teachers import TeacherGroup, annotate

END_OF_TURN = "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}[{{ message['content'] }}]{% endfor %}{% if add_generation_prompt %}={% endif %}"
)
# vLLM and transformers sum in another order: where the two best are closer than this, either may be named
TIE, LOGPROB_BOUND = 1e-4, 1e-4


# ---- teachers


@pytest.fixture(scope="module")
def copy_folder(tiny_models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The policy itself, its tokens in another order."""
    model, tokenizer = load(tiny_models["policy"])
    reordered = character_tokenizer(SYMBOLS[::-1])
    assert reordered.get_vocab() != tokenizer.get_vocab()
    shape = {key: getattr(model.config, key) for key in (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "max_position_embeddings", "tie_word_embeddings",
    )}  # fmt: skip
    folder = write_model(tmp_path_factory.mktemp("teachers") / "copy", "qwen2", reordered, **shape)
    copy, _ = load(str(folder))
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        for token, index in reordered.get_vocab().items():
            copy.model.embed_tokens.weight[index] = model.model.embed_tokens.weight[tokenizer.get_vocab()[token]]
    copy.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def larger_folder(tiny_models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Qwen3 with more tokens than the policy, one less, another end of sequence and a chat template."""
    tokenizer = character_tokenizer(["[", "]", "**", "\\boxed{7", *[s for s in SYMBOLS[::-1] if s != ","]])
    tokenizer.add_special_tokens({"eos_token": END_OF_TURN})
    tokenizer.chat_template = TEMPLATE
    shape = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 32,
        "num_key_value_heads": 1, "max_position_embeddings": 128, "tie_word_embeddings": False,
    }  # fmt: skip
    folder = write_model(tmp_path_factory.mktemp("teachers") / "larger", "qwen3", tokenizer, seed=2, **shape)
    return str(folder)


@pytest.fixture(scope="module")
def pools(teachers: dict[str, TeacherGroup], copy_folder: str, larger_folder: str) -> Iterator[dict[str, TeacherGroup]]:
    """`same` has the policy's tokenizer; `copy` and `larger` were described above and start together."""

    def pool(folder: str, **options: Any) -> TeacherGroup:
        spec = teachers["default"].spec
        return TeacherGroup(replace(spec, engine=replace(spec.engine, model=folder), **options), num_cpus=0.5)

    found = {"copy": pool(copy_folder), "larger": pool(larger_folder, prompt="own_template")}
    for group in found.values():
        group.wait_until_ready()
    yield {"same": teachers["default"], **found}
    for group in found.values():
        group.stop()


# ---- what they read


@pytest.fixture(scope="module")
def sampled(env_runners: Any) -> list[SampledGroup]:
    """Five groups of three episodes that the policy wrote, with its own log-probs."""
    tasks = [Task(0, index, seed=index, ordinal=index) for index in range(5)]
    return list(env_runners.sample(tasks, 3, Sampling(max_tokens=24, logprobs=True), seed=0))


# ---- with the policy's own tokenizer


def test_argmax_and_log_prob_are_those_of_transformers_at_every_position(
    pools: dict[str, TeacherGroup], sampled: list[SampledGroup], tiny_models: dict[str, str]
):
    model, _ = load(tiny_models["teacher"])
    for episode, guidance in guided(pools["same"], sampled, "argmax", "logprob"):
        expected = forced_logprobs(model, episode.prompt_ids, episode.response_ids)
        assert guidance.teacher_ids is not None
        assert guidance.teacher_logprobs is not None
        assert guidance.teacher_ids.dtype == np.int32
        assert guidance.topk_ids is guidance.topk_logprobs is None  # nobody asked
        named = expected.gather(1, torch.tensor(guidance.teacher_ids.tolist())[:, None])[:, 0]
        assert (expected.max(-1).values - named).max() < TIE
        written = expected.gather(1, torch.tensor(episode.response_ids.tolist())[:, None])[:, 0]
        np.testing.assert_allclose(guidance.teacher_logprobs, written.numpy(), atol=LOGPROB_BOUND)


def test_the_best_k_are_sorted_and_begin_with_the_argmax(
    pools: dict[str, TeacherGroup], sampled: list[SampledGroup], tiny_models: dict[str, str]
):
    model, _ = load(tiny_models["teacher"])
    for episode, guidance in guided(pools["same"], sampled, "argmax", "topk:4"):
        assert guidance.topk_ids is not None
        assert guidance.topk_logprobs is not None
        assert guidance.topk_ids.shape == guidance.topk_logprobs.shape == (len(episode.response_ids), 4)
        np.testing.assert_array_equal(guidance.topk_ids[:, 0], guidance.teacher_ids)
        assert (np.diff(guidance.topk_logprobs, axis=1) <= 0).all()
        expected = forced_logprobs(model, episode.prompt_ids, episode.response_ids)
        found = expected.gather(1, torch.tensor(guidance.topk_ids.tolist()))
        np.testing.assert_allclose(guidance.topk_logprobs, found.numpy(), atol=LOGPROB_BOUND)
        np.testing.assert_allclose(guidance.topk_logprobs, expected.topk(4).values.numpy(), atol=LOGPROB_BOUND)


# ---- the policy as its own teacher: any shift would show


def test_a_copy_of_the_policy_gives_the_samplers_log_probs(pools: dict[str, TeacherGroup], sampled: list[SampledGroup]):
    pairs = guided(pools["copy"], sampled, "logprob")
    teacher = np.concatenate(
        [guidance.teacher_logprobs for _, guidance in pairs if guidance.teacher_logprobs is not None]
    )
    policy = np.concatenate([episode.old_logprobs for episode, _ in pairs if episode.old_logprobs is not None])
    assert np.abs(teacher - policy).max() < LOGPROB_BOUND
    assert np.abs(teacher[1:] - policy[:-1]).mean() > 100 * LOGPROB_BOUND


def test_a_copy_of_the_policy_agrees_with_its_argmax_and_not_one_position_on(
    pools: dict[str, TeacherGroup], sampled: list[SampledGroup], tiny_models: dict[str, str]
):
    model, _ = load(tiny_models["policy"])
    here, shifted = [], []
    for episode, guidance in guided(pools["copy"], sampled, "argmax"):
        expected = forced_logprobs(model, episode.prompt_ids, episode.response_ids).argmax(-1).numpy()
        assert guidance.teacher_ids is not None  # in the policy's ids, although the copy's are others
        here.append(guidance.teacher_ids == expected)
        shifted.append(guidance.teacher_ids[1:] == expected[:-1])
    assert np.concatenate(here).mean() > 0.99
    assert np.concatenate(shifted).mean() < 0.5


# ---- another vocabulary, another end of sequence, its own template


def test_a_larger_teacher_reads_and_answers_in_the_policys_ids(
    pools: dict[str, TeacherGroup], tiny_models: dict[str, str], larger_folder: str
):
    model, theirs = load(larger_folder)
    _, ours = load(tiny_models["policy"])
    assert len(theirs) > len(ours)
    response = "12*3=36;\\boxed{36}"
    episode = make_episode(prompt=ours.encode("5*7="), response=[*ours.encode(response), ours.eos_token_id])
    group = stored_group(episodes=[episode], prompt_text="5*7=")
    ((_, guidance),) = guided(pools["larger"], [group], "argmax", "logprob", "topk:4")
    # it reads its own template, and the policy's end as the token of the same name
    read = [*theirs.encode(response), theirs.convert_tokens_to_ids(ours.eos_token)]
    assert len(read) == len(episode.response_ids)
    expected = forced_logprobs(model, theirs.encode("[5*7=]="), read)
    assert guidance.teacher_logprobs is not None
    written = expected.gather(1, torch.tensor(read)[:, None])[:, 0]
    np.testing.assert_allclose(guidance.teacher_logprobs, written.numpy(), atol=LOGPROB_BOUND)
    names = theirs.convert_ids_to_tokens(expected.topk(4).indices.flatten().tolist())
    vocabulary = {**ours.get_vocab(), END_OF_TURN: ours.eos_token_id}  # the end that it writes is the policy's end
    assert guidance.topk_ids is not None
    assert guidance.topk_ids.flatten().tolist() == [vocabulary.get(name, -1) for name in names]
    assert -1 in guidance.topk_ids  # `[` and its like mean nothing to the policy
    np.testing.assert_array_equal(guidance.topk_ids[:, 0], guidance.teacher_ids)


def test_a_token_that_the_teacher_cannot_read_is_not_guided_and_moves_nothing(
    pools: dict[str, TeacherGroup], tiny_models: dict[str, str], larger_folder: str
):
    model, theirs = load(larger_folder)
    _, ours = load(tiny_models["policy"])
    # the teacher has no comma, and nothing that spells one
    episode = make_episode(prompt=ours.encode("1="), response=ours.encode("1,2,"))
    group = stored_group(episodes=[episode], prompt_text="1=")
    ((_, guidance),) = guided(pools["larger"], [group], "argmax", "logprob")
    assert guidance.teacher_ids is not None
    assert guidance.teacher_logprobs is not None
    assert guidance.teacher_ids[[1, 3]].tolist() == [-1, -1]
    assert guidance.teacher_logprobs[[1, 3]].tolist() == [UNREADABLE_LOGPROB] * 2
    read = theirs.encode("12")
    expected = forced_logprobs(model, theirs.encode("[1=]="), read).gather(1, torch.tensor(read)[:, None])[:, 0]
    np.testing.assert_allclose(guidance.teacher_logprobs[[0, 2]], expected.numpy(), atol=LOGPROB_BOUND)


def test_traces_are_in_the_teachers_own_ids(pools: dict[str, TeacherGroup], larger_folder: str):
    model, tokenizer = load(larger_folder)
    prompts = [tokenizer.encode(text) for text in ("[1]=", "[2]=", "[3]=")]
    greedy = pools["larger"].generate(prompts, Sampling(max_tokens=5, temperature=0.0))
    for prompt, (completion,) in zip(prompts, greedy, strict=True):
        expected = forced_logprobs(model, prompt, completion.token_ids)
        assert expected.argmax(-1).tolist() == completion.token_ids.tolist()
    many = pools["larger"].generate(prompts, Sampling(max_tokens=5, logprobs=True), n=4)
    assert [len(completions) for completions in many] == [4, 4, 4]
    for completion in (completion for completions in many for completion in completions):
        assert completion.logprobs is not None and len(completion.logprobs) == len(completion.token_ids) <= 5


# ---- what is asked and what is accepted


def test_wants_are_read_by_name():
    assert Want.parse({"argmax", "topk:4"}) == Want(argmax=True, logprob=False, top_k=4)
    assert Want.parse(["logprob"]) == Want(argmax=False, logprob=True, top_k=0)


@pytest.mark.parametrize("name", ["argmx", "topk", "topk:0", "topk:129", "topk:-1", "topk:four", "hiden"])
def test_an_unknown_want_names_the_known_ones(name: str):
    with pytest.raises(ValueError, match=rf"'hidden' and 'topk:k' with k in 1..128, got '{name}'"):
        Want.parse([name])


@pytest.mark.slow
def test_a_real_teacher_that_is_killed_or_hangs_in_the_middle_leaves_every_group_guided(
    teachers: dict[str, TeacherGroup], sampled: list[SampledGroup]
):
    """vLLM in both replicas; what the survivor and the restarted one say is what one that nobody harmed says."""
    expected = list(annotate(sampled, lambda _: teachers["default"], ["argmax"]))
    pool = TeacherGroup(teachers["default"].spec, 2, num_cpus=0.5, timeout_s=5.0)
    try:
        pool.wait_until_ready()
        for harm in (signal.SIGKILL, signal.SIGSTOP):
            work = [replace(group, ordinal=10 * turn + group.ordinal) for turn in range(4) for group in sampled]
            victim = process_of(pool.handles[0])
            os.kill(victim, signal.SIGSTOP)  # it holds its share of the work, then dies or stays as it is
            batch = pool.batch("teacher")
            for group in work:
                batch.submit(group, ["argmax"])
            os.kill(victim, harm)
            found = {group.ordinal: group for group in batch.drain()}
            assert sorted(found) == sorted(group.ordinal for group in work)
            counts = batch.counts
            assert (counts.unguided, counts.restarts) == (0, 1) and counts.retries > 0, harm
            for group in expected:
                answers: list[Any] = [ray.get(it.guidance["teacher"]) for it in (found[group.ordinal], group)]
                for said, unharmed in zip(*answers, strict=True):
                    np.testing.assert_array_equal(said.teacher_ids, unharmed.teacher_ids)
            while not all(replica.alive for replica in pool.replicas):  # the next round harms one that is up
                pool.collect(wait_s=0.5)
    finally:
        pool.stop()
