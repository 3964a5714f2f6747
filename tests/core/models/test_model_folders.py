"""Folders as people have them: each that does not hold the model is refused from its files, with the fix."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import SYMBOLS
from tgpo_ray.models import (
    MissingWeightsError,
    ModelSource,
    character_tokenizer,
    load_model,
    model_problems,
    write_model,
)

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_models: Mapping[str, str], tmp_path: Path) -> Path:
    """A copy of the policy (Qwen2, tied head)."""
    return Path(shutil.copytree(tiny_models["policy"], tmp_path / "policy"))


@pytest.fixture
def untied(tiny_models: Mapping[str, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models["teacher"], tmp_path / "teacher"))


def problems(folder: Path | str, **options: Any) -> list[str]:
    return model_problems(ModelSource("model", str(folder), **options))


def the_problem(folder: Path | str, **options: Any) -> str:
    (problem,) = problems(folder, **options)
    return problem.removeprefix(f"model.path: {folder}: ")


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Rewrite the tensors of a folder; `edit` changes the dictionary, or returns another one."""
    tensors = load_file(folder / WEIGHTS)
    save_file(edit(tensors) or tensors, folder / WEIGHTS, metadata={"format": "pt"})


def configure(folder: Path, file: str = "config.json", **values: Any) -> None:
    facts = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    (folder / file).write_text(json.dumps(facts | values))


def test_whole_folders_pass(tiny_models: Mapping[str, str]) -> None:
    assert [problems(path) for path in tiny_models.values()] == [[], []]


# ---- names and shapes


def test_a_tensor_that_is_not_in_the_files_is_named_and_does_not_load(folder: Path) -> None:
    lost = {f"model.layers.1.mlp.{name}_proj.weight" for name in ("up", "down")}
    change(folder, lambda tensors: {name: it for name, it in tensors.items() if name not in lost})
    said = "the files lack 2 tensors (model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.up_proj.weight)"
    assert the_problem(folder).startswith(said)
    with pytest.raises(MissingWeightsError, match=r"the files lack 2 tensors .* train random numbers in their place"):
        load_model(str(folder), dtype=torch.float32, hf_overrides={}, trust_remote_code=False)


def test_names_with_a_wrappers_prefix_are_told_with_the_prefix(folder: Path) -> None:
    change(folder, lambda tensors: {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()})
    assert the_problem(folder).endswith("take the prefix '_orig_mod.' off the names")


def test_another_shape_is_named_with_both(folder: Path) -> None:
    configure(folder, intermediate_size=80)
    problem = the_problem(folder)
    assert "down_proj.weight is [64, 96] in the files and [64, 80] by config.json (and 5 more)" in problem
    assert "[64, 97] by config.json" in the_problem(folder, hf_overrides={"intermediate_size": 97})
    assert problems(folder, hf_overrides={"intermediate_size": 96}) == []


def test_a_tensor_that_the_configuration_leaves_out_is_named(untied: Path) -> None:
    change(untied, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}))
    assert the_problem(untied).startswith("the files hold 1 tensor (model.layers.0.self_attn.q_proj.bias), which Qwen3")


def test_layers_are_left_out_only_where_the_overrides_say_so(folder: Path) -> None:
    assert problems(folder, hf_overrides={"num_hidden_layers": 1}) == []
    configure(folder, num_hidden_layers=1, layer_types=["full_attention"])
    assert "layers that are meant to be left out are hf_overrides.num_hidden_layers" in the_problem(folder)


def test_tensors_that_follow_or_stand_apart_are_no_fault(untied: Path) -> None:
    extra = ["model.layers.0.self_attn.rotary_emb.inv_freq", "v_head.weight", "model.visual.blocks.0.norm.weight"]
    change(untied, lambda tensors: tensors.update({name: torch.zeros(3) for name in extra}))
    configure(untied, num_nextn_predict_layers=1)  # GLM and DeepSeek store one more layer, for prediction ahead
    change(untied, lambda tensors: tensors.update({"model.layers.2.eh_proj.weight": torch.zeros(3)}))
    assert problems(untied) == []


def test_packed_experts_are_compared_as_they_are_stored(tmp_path: Path) -> None:
    path = mixture(tmp_path / "mixture")
    assert problems(path) == []
    change(path, lambda tensors: {name: it for name, it in tensors.items() if ".experts.3.up_proj" not in name})
    assert the_problem(path).startswith(
        "the files lack 2 tensors (model.layers.0.mlp.experts.3.up_proj.weight, model.l"
    )


def mixture(folder: Path) -> Path:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    tokenizer = character_tokenizer(SYMBOLS)
    config_class: Any = Qwen3MoeConfig
    config = config_class(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, moe_intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, num_experts=4, num_experts_per_tok=2,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_model_of_seven_billion_parameters_takes_seconds(tmp_path: Path) -> None:
    shape = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    path = hollow_model(tmp_path / "7b", num_key_value_heads=4, vocab_size=152064, **shape)
    start = time.monotonic()
    assert problems(path) == []
    assert time.monotonic() - start < 10


def hollow_model(folder: Path, **shape: Any) -> Path:
    """A folder with the headers of a large model and a file with a hole in place of the numbers."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    tokenizer = character_tokenizer(SYMBOLS)
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **shape)
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(config).state_dict()
    header, end = {}, 0
    for name, tensor in state.items():
        start, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / WEIGHTS).open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    return folder


# ---- the head and the tokenizer


def test_a_tied_head_that_differs_from_the_embeddings_is_refused(folder: Path) -> None:
    embeddings = load_file(folder / WEIGHTS)["model.embed_tokens.weight"]
    change(folder, lambda tensors: tensors.update({"lm_head.weight": embeddings.clone()}))
    assert problems(folder) == []
    embeddings[-1, -1] += 1  # in one number of the last row
    change(folder, lambda tensors: tensors.update({"lm_head.weight": embeddings.clone()}))
    assert the_problem(folder).startswith("tie_word_embeddings is true and the files hold a lm_head.weight that")
    assert problems(folder, hf_overrides={"tie_word_embeddings": False}) == []


def test_a_token_without_an_embedding_is_named(folder: Path, tmp_path: Path) -> None:
    tokenizer = character_tokenizer([*SYMBOLS, "<think>"])
    tokenizer.save_pretrained(tmp_path / "wider")
    size = len(tokenizer)
    (problem,) = problems(folder, tokenizer=str(tmp_path / "wider"))
    assert problem.startswith(f"model.tokenizer: {tmp_path / 'wider'}: its tokenizer has {size} tokens and the")
    assert f"have {size - 1} rows: " in problem and "resize_token_embeddings" in problem


def test_a_special_token_for_pictures_needs_no_embedding(folder: Path) -> None:
    tokenizer = character_tokenizer(SYMBOLS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})  # as Gemma 3's model of 1B
    tokenizer.save_pretrained(folder)
    assert problems(folder) == []


def test_a_tokenizer_without_an_end_of_sequence_is_refused(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    assert problems(folder) == []  # generation_config.json names one
    (folder / "generation_config.json").unlink()
    assert problems(folder) == []  # and config.json too
    configure(folder, "config.json", eos_token_id=None)
    assert the_problem(folder).startswith("its tokenizer has no end of sequence, and generation_config.json names none")


# ---- the files


def test_an_adapter_is_told_from_a_model(folder: Path) -> None:
    configure(folder, "adapter_config.json", base_model_name_or_path="org/base")
    assert the_problem(folder).startswith("it holds an adapter beside a model (of org/base), which is not read: merge")
    (folder / "config.json").unlink()
    assert the_problem(folder).startswith("it holds an adapter (of org/base)")


def test_quantized_weights_cannot_be_trained_and_may_teach(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "awq", "bits": 4})
    assert the_problem(folder).startswith("its weights are quantized (awq), and quantized weights cannot be trained")
    assert problems(folder, loader="vllm") == []
    problem = the_problem(folder, loader="transformers")
    assert problem.startswith("its weights are quantized (awq), which transformers cannot load here (")
    assert problem.endswith("use backend: vllm")


def test_files_that_are_not_whole_are_told_apart(folder: Path) -> None:
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[:-100])
    assert the_problem(folder).startswith(f"{WEIGHTS} of {len(weights) - 100} bytes is cut off or no safetensors file")
    (folder / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n")
    assert the_problem(folder).endswith("run `git lfs pull` in the folder")
    (folder / WEIGHTS).unlink()
    assert the_problem(folder).startswith("no weights that are read: it has none; wanted model.safetensors or")
    (folder / "model.gguf").write_bytes(b"GGUF")
    assert "it has model.gguf; wanted" in the_problem(folder)


def test_an_index_must_name_the_shards_that_are_there(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="40KB")
    assert "it holds the weights of two models: model.safetensors, and model-00001-of" in the_problem(folder)
    (folder / WEIGHTS).unlink()
    assert problems(folder) == []
    shards = sorted(folder.glob("model-*"))
    shards[1].unlink()
    assert the_problem(folder).startswith(f"model.safetensors.index.json names {shards[1].name}, which is not there")


def test_pickled_weights_are_read_as_transformers_reads_them(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert problems(folder) == []
    del tensors["model.norm.weight"]
    torch.save(tensors, folder / "pytorch_model.bin")
    assert the_problem(folder).startswith("the files lack 1 tensor (model.norm.weight)")


def test_an_architecture_that_transformers_does_not_know_is_named_but_to_vllm(folder: Path) -> None:
    configure(folder, model_type="qwen99")
    assert the_problem(folder).startswith("transformers cannot build the model of config.json: ")
    assert problems(folder, loader="vllm") == []


def test_write_model_writes_folders_that_pass(tmp_path: Path) -> None:
    path = write_model(
        tmp_path / "m", "qwen3", character_tokenizer(SYMBOLS), hidden_size=32, intermediate_size=48,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    assert problems(path) == []
