"""A teacher of another tokenizer altogether, aligned by text, through the same class as any teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.core.guidance.guidance_tokenizers import encode, large, sentencepiece, small
from tests.episodes import make_episode
from tgpo_ray.episode import EpisodeGroup
from tgpo_ray.guidance import UNREADABLE_LOGPROB, TextAlignment, VocabularyMap, guidance_loss
from tgpo_ray.models import write_model
from tgpo_ray.models.engine_spec import EngineSpec
from tgpo_ray.teachers import Teacher, TeacherSpec

SHAPE = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "max_position_embeddings": 256, "tie_word_embeddings": True,
}  # fmt: skip
TEXT = "Let us think about it: 12 + 30 = 42. 你好世界 naïve café\n"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The policy's tokenizer, and teachers of other ones."""
    root = tmp_path_factory.mktemp("tokenizers")
    made = {"policy": small(), "larger": large(), "sentencepiece": sentencepiece()}
    return {name: str(write_model(root / name, "qwen2", tokenizer, **SHAPE)) for name, tokenizer in made.items()}


def teacher(folders: dict[str, str], name: str, vocabulary: Any) -> Teacher:
    engine = EngineSpec(folders[name], dtype="float32", max_model_len=256, kv_cache_memory=2**24)
    return Teacher(TeacherSpec(engine, folders["policy"], backend="transformers", vocabulary=vocabulary))


def group() -> EpisodeGroup:
    prompt, *responses = (np.asarray(encode(small(), text), np.int32) for text in ("Question: ", TEXT, "42"))
    ends = np.asarray([small().eos_token_id], np.int32)
    episodes = [make_episode(prompt=prompt, response=np.concatenate([ids, ends])) for ids in responses]
    return EpisodeGroup(tuple(episodes), "Question: ")


@pytest.mark.parametrize(
    ("name", "vocabulary", "kind"),
    [
        ("larger", "auto", VocabularyMap),  # the policy's tokens are all among the teacher's
        ("larger", "text", TextAlignment),
        ("policy", "auto", VocabularyMap),
    ],
)
def test_tokens_are_mapped_by_string_where_most_are_shared(folders: dict[str, str], name: str, vocabulary: str, kind):
    assert isinstance(teacher(folders, name, vocabulary).translator.vocabulary, kind)


@pytest.mark.parametrize(("name", "vocabulary"), [("larger", "text"), ("larger", "map"), ("policy", "text")])
def test_every_answer_is_of_the_policys_ids_and_fits_the_group(folders: dict[str, str], name: str, vocabulary: str):
    asked = teacher(folders, name, vocabulary)
    answers, verdict = asked.annotate_checked(group(), ["argmax", "logprob", "topk:3"])
    assert verdict.flaw == ""
    for said, episode in zip(answers, group().episodes, strict=True):
        assert said.teacher_ids is not None and said.teacher_logprobs is not None
        assert len(said.teacher_ids) == len(episode.response_ids)
        assert (said.teacher_ids >= 0).mean() > 0.5 and said.teacher_ids.max() < len(small())
        assert (said.teacher_logprobs != UNREADABLE_LOGPROB).any()


def test_a_teacher_with_the_policys_tokenizer_says_the_same_by_text_and_by_id(folders: dict[str, str]):
    by_text, by_id = (teacher(folders, "policy", way).annotate(group(), ["argmax"]) for way in ("text", "map"))
    for left, right in zip(by_text, by_id, strict=True):
        assert left.teacher_ids is not None and right.teacher_ids is not None
        whole = (left.teacher_ids >= 0) & (right.teacher_ids >= 0)
        assert whole.mean() > 0.5 and (left.teacher_ids == right.teacher_ids)[whole].mean() > 0.9


def test_two_tokens_of_the_teacher_that_become_one_of_the_policys_are_one_target(folders: dict[str, str]):
    said = teacher(folders, "larger", "text").annotate(group(), ["topk:8"])[0]
    assert said.topk_ids is not None and said.topk_logprobs is not None
    for ids, logprobs in zip(said.topk_ids, said.topk_logprobs, strict=True):
        kept = ids[ids >= 0]
        assert len(kept) == len(set(kept.tolist())) and (logprobs[ids < 0] == UNREADABLE_LOGPROB).all()


def test_a_teacher_that_is_the_policy_teaches_its_greedy_tokens(folders: dict[str, str]):
    """Every log-ratio is 0, the guidance loss is -mean log max p, and agreement is the rate of greedy tokens."""
    model = AutoModelForCausalLM.from_pretrained(folders["policy"], dtype=torch.float32).eval()
    answers = teacher(folders, "policy", "auto").annotate(group(), ["argmax", "logprob"])
    for said, episode in zip(answers, group().episodes, strict=True):
        ids = torch.from_numpy(np.concatenate([episode.prompt_ids, episode.response_ids])).long()
        with torch.no_grad():
            log_p = torch.log_softmax(model(ids[None]).logits[0], -1)[len(episode.prompt_ids) - 1 : -1]  # (T, V)
        sampled, teacher_ids = torch.from_numpy(episode.response_ids).long(), torch.from_numpy(said.teacher_ids).long()
        log_ratio = log_p.gather(1, sampled[:, None])[:, 0] - torch.from_numpy(said.teacher_logprobs)
        assert log_ratio.abs().max() < 1e-5
        guidance = guidance_loss(log_p.gather(1, teacher_ids[:, None])[:, 0], torch.ones(len(sampled)))
        torch.testing.assert_close(guidance.mean(), -log_p.amax(-1).mean(), atol=1e-6, rtol=0)
        assert (sampled == teacher_ids).sum() == (sampled == log_p.argmax(-1)).sum()
