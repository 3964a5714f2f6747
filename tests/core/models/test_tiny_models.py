"""Tiny models and their tokenizers."""

from __future__ import annotations

import json
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from tgpo_ray.models import byte_level_tokenizer, character_tokenizer, make_text_models, write_model

SYMBOLS = [*"0123456789+=*", "\\boxed{", "}"]
SHAPE = {
    "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32,
    "num_hidden_layers": 1, "max_position_embeddings": 64,
}  # fmt: skip


def decode(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("text", ["12*3=36", "\\boxed{36}", "", "1+\\boxed{}=0"])
def test_a_character_tokenizer_reads_back_what_it_wrote(text: str):
    tokenizer = character_tokenizer(SYMBOLS)
    assert decode(tokenizer, tokenizer.encode(text)) == text


def test_the_longest_symbol_wins():
    tokenizer = character_tokenizer(SYMBOLS)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("7\\boxed{7}")) == ["7", "\\boxed{", "7", "}"]


def test_a_character_outside_the_alphabet_is_dropped():
    tokenizer = character_tokenizer(SYMBOLS)
    assert tokenizer.encode("1?\n2") == tokenizer.encode("12")


@pytest.mark.parametrize("text", ["two apples", " spaces  and\nlines\t", "übung 数学 ∑ 🙂", ""])
def test_a_byte_level_tokenizer_writes_any_text(text: str):
    tokenizer = byte_level_tokenizer(["two apples and three pears"] * 3, 300)
    assert decode(tokenizer, tokenizer.encode(text)) == text
    assert len(tokenizer) <= 300


def test_special_tokens_have_ids_of_their_own():
    for tokenizer in (character_tokenizer(SYMBOLS), byte_level_tokenizer(["a b"], 300)):
        assert tokenizer.eos_token_id != tokenizer.pad_token_id
        assert tokenizer.encode(tokenizer.eos_token) == [tokenizer.eos_token_id]


@pytest.mark.parametrize(("architecture", "tied"), [("qwen2", True), ("qwen2", False), ("qwen3", False)])
def test_a_written_model_loads_with_tokenizer_and_generation_config(tmp_path: Path, architecture: str, tied: bool):
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = character_tokenizer(SYMBOLS)
    folder = write_model(tmp_path / "m", architecture, tokenizer, tie_word_embeddings=tied, **SHAPE)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == architecture
    assert model.config.vocab_size == len(tokenizer)
    head: Any = model.get_output_embeddings()
    assert (model.get_input_embeddings().weight is head.weight) == tied
    text = "1+1=\\boxed{2}"
    assert AutoTokenizer.from_pretrained(folder).encode(text) == tokenizer.encode(text)  # also as a qwen2's
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id
    ids = torch.tensor([tokenizer.encode("1+1=")])
    assert torch.isfinite(model(ids).logits).all()


def test_the_seed_makes_the_weights_and_leaves_the_callers_generator_alone(tmp_path: Path):
    from safetensors.torch import load_file

    tokenizer = character_tokenizer(SYMBOLS)
    before = torch.get_rng_state()
    folders = [
        write_model(tmp_path / str(i), "qwen2", tokenizer, seed=seed, **SHAPE) for i, seed in enumerate((3, 3, 4))
    ]
    assert torch.equal(before, torch.get_rng_state())
    first, same, other = (load_file(folder / "model.safetensors")["model.embed_tokens.weight"] for folder in folders)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_an_unknown_architecture_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="architecture must be one of qwen2, qwen3, got 'llama'"):
        write_model(tmp_path, "llama", character_tokenizer(SYMBOLS))


def test_text_models_have_tokenizers_of_different_sizes(tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    data = tmp_path / "problems.jsonl"
    words = ["".join(letters) for letters in permutations("aeghnrst", 4)]
    data.write_text("".join(json.dumps({"problem": f"{a} {b}"}) + "\n" for a, b in pairwise(words)))
    policy, teacher = make_text_models(str(data), tmp_path / "models")
    sizes = [len(AutoTokenizer.from_pretrained(folder)) for folder in (policy, teacher)]
    assert sizes[0] < sizes[1]
    for folder, size, tied in ((policy, sizes[0], True), (teacher, sizes[1], False)):
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.config.vocab_size == size
        assert model.config.tie_word_embeddings == tied


def test_text_models_need_problems(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no such file: nowhere.jsonl"):
        make_text_models("nowhere.jsonl", tmp_path)
    empty = tmp_path / "other.jsonl"
    empty.write_text(json.dumps({"question": "1+1"}) + "\n")
    with pytest.raises(ValueError, match="has no row with a `problem`"):
        make_text_models(str(empty), tmp_path)
