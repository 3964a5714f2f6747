"""Tiny models that are taught pairs of prompt and response."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tgpo_ray.models import byte_level_tokenizer, make_taught_models
from tgpo_ray.models.tiny_taught import MAX_TOKENS, _row

PAIRS = [(f"{a}+{b}=", str(a + b)) for a in range(3) for b in range(3)]


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_they_learn_the_responses_and_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr("tgpo_ray.models.tiny_taught.STEPS", {"policy": 1, "teacher": 40})
    monkeypatch.setattr("tgpo_ray.models.tiny_taught.BATCH", 16)
    before = torch.get_rng_state()
    policy, teacher = make_taught_models(PAIRS, tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert (policy.name, teacher.name) == ("policy", "teacher")

    def answers(folder: Path) -> list[str]:
        model: Any = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        found = []
        for prompt, _ in PAIRS:
            ids = torch.tensor([tokenizer.encode(prompt)])
            written = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)
            found.append(tokenizer.decode(written[0, ids.shape[1] :]))
        return found

    end = AutoTokenizer.from_pretrained(teacher).eos_token
    right = [response + end for _, response in PAIRS]
    assert answers(teacher) == right
    assert answers(policy) != right


def test_of_a_response_in_pieces_some_are_read_and_not_learned() -> None:
    tokenizer = byte_level_tokenizer(["a by B C: B g C k"], 512)
    ids, labels = _row(tokenizer, ("a by B C:", [(" B", True), (" g", False), (" C k", True)]))
    whole, _ = _row(tokenizer, ("a by B C:", " B g C k"))
    assert ids == whole
    (left_out,) = (i for i in range(len(tokenizer("a by B C:")["input_ids"]), len(ids)) if labels[i] == -100)
    assert tokenizer.decode(ids[left_out]) == " g" and labels[-1] == tokenizer.eos_token_id


def test_pairs_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no problem with a right response: the models are taught with them"):
        make_taught_models([], tmp_path)
    with pytest.raises(ValueError, match=f"every prompt with its response has more than {MAX_TOKENS} tokens"):
        make_taught_models([("0 1 2 3 4 5 6 7 8 9 " * MAX_TOKENS, "x")], tmp_path)
    assert not any(tmp_path.iterdir())
