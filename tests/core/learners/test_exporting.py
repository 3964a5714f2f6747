"""What is exported is the model: its buffers, dtype and names, with nothing of an older one left beside it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import SYMBOLS
from tests.core.learners.learner_cases import spec_of
from tests.paths import ROOT
from tgpo_ray.cluster import copy_over, move_into_place, staging_folder
from tgpo_ray.learners.exporting import ExportedModel, persistent_buffers, read_back_problems
from tgpo_ray.learners.learner import Learner
from tgpo_ray.learners.strategies import StrategyOptions
from tgpo_ray.models import ModelSource, character_tokenizer, load_model, model_problems

BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128,
}  # fmt: skip


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: it for file in sorted(folder.glob("*.safetensors")) for name, it in load_file(file).items()}


def write_mixture(folder: Path, architecture: str) -> Path:
    """A mixture of experts with every buffer and weight drawn at random, in the layout of a checkpoint."""
    import transformers

    tokenizer = character_tokenizer(SYMBOLS)
    config_class = getattr(transformers, f"{architecture}Config")
    experts = {"num_experts": 4} if "Qwen" in architecture else {"n_routed_experts": 4, "n_group": 1, "topk_group": 1}
    experts |= {"num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_shared_experts": 1}
    config = config_class(
        vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=0,
        **SHAPE, **experts,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{architecture}ForCausalLM")(config)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.uniform_(-1, 1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def exported(source: Path | str, target: Path, **options: Any) -> Path:
    Learner(spec_of(str(source), options=StrategyOptions(**options))).export(target)
    return target


@pytest.mark.parametrize("architecture", ["Glm4Moe", "Qwen3Moe"])
def test_a_mixture_is_exported_in_the_layout_of_its_folder_with_its_routers_bias(
    architecture: str, tmp_path: Path
) -> None:
    source = write_mixture(tmp_path / "source", architecture)
    target = exported(source, tmp_path / "target")
    before, after = stored(source), stored(target)
    assert (BIAS in before) == (architecture == "Glm4Moe")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_in_bfloat16_the_configuration_says_so_and_the_bias_keeps_its_numbers(tmp_path: Path) -> None:
    source = write_mixture(tmp_path / "source", "Glm4Moe")
    target = exported(source, tmp_path / "target", dtype="bfloat16")
    after = stored(target)
    assert {it.dtype for name, it in after.items() if "bias" not in name} == {torch.bfloat16}
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"
    assert torch.equal(after[BIAS], stored(source)[BIAS]) and after[BIAS].dtype == torch.float32
    assert model_problems(ModelSource("model", str(target))) == []


def test_nothing_of_an_older_model_is_left_for_a_loader_and_what_is_no_model_is_kept(
    tiny_models: Mapping[str, str], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    target = tmp_path / "target"
    AutoModelForCausalLM.from_pretrained(tiny_models["teacher"]).save_pretrained(target, max_shard_size="20KB")
    assert len(list(target.glob("*.safetensors"))) > 1
    (target / "README.md").write_text("mine")
    (target / "notes").mkdir()
    (target / "notes" / "day.txt").write_text("too")
    exported(tiny_models["policy"], target)
    assert [it.name for it in target.glob("*.safetensors")] == ["model.safetensors"]
    assert not (target / "model.safetensors.index.json").exists()
    assert (target / "README.md").read_text() == "mine" and (target / "notes" / "day.txt").read_text() == "too"
    assert [it.name for it in tmp_path.iterdir()] == ["target"]  # nothing beside it


def test_a_folder_that_is_no_model_is_not_replaced(tiny_models: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("mine")
    with pytest.raises(ValueError, match=r"holds setup\.py and no config\.json: it is not the folder of a model"):
        exported(tiny_models["policy"], tmp_path)
    assert [it.name for it in tmp_path.iterdir()] == ["setup.py"]


def test_an_invalid_generation_config_is_kept_with_a_warning(
    tiny_models: Mapping[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(shutil.copytree(tiny_models["policy"], tmp_path / "source"))
    file = "generation_config.json"
    invalid = json.loads((source / file).read_text()) | {"do_sample": False, "temperature": 0.6, "top_p": 0.9}
    (source / file).write_text(json.dumps(invalid))
    target = exported(source, tmp_path / "target")
    kept = json.loads((target / file).read_text())
    assert {name: kept[name] for name in ("do_sample", "temperature", "top_p", "eos_token_id")} == {
        name: invalid[name] for name in ("do_sample", "temperature", "top_p", "eos_token_id")
    }
    assert f"WARNING: generation_config.json of {source} is kept, though invalid: " in capsys.readouterr().out


# ---- read back


@pytest.fixture(scope="module")
def whole(tiny_models: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportedModel, Path]:
    path = tiny_models["policy"]
    target = exported(path, tmp_path_factory.mktemp("exported") / "whole")
    model = load_model(path, dtype=torch.float32, hf_overrides={}, trust_remote_code=False)
    weights = {name: it.detach() for name, it in model.named_parameters()} | persistent_buffers(model)
    return ExportedModel(model, weights, torch.float32, path, path), target


def test_an_export_reads_back_as_it_was_written(whole: tuple[ExportedModel, Path]) -> None:
    assert read_back_problems(*whole) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: it["model.norm.weight"].mul_(2), "1 tensors differ, such as model.norm.weight"),
        (lambda it: it.update({"model.norm.weight": it["model.norm.weight"].half()}), "1 tensors differ"),
        (lambda it: it.pop("model.norm.weight"), "the files lack 1 tensor (model.norm.weight)"),
    ],
    ids=["value", "dtype", "name"],
)
def test_what_was_not_written_as_meant_is_found(
    whole: tuple[ExportedModel, Path], tmp_path: Path, change: Any, said: str
) -> None:
    model, folder = whole
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert read_back_problems(model, copy)[0].startswith(said)


# ---- into place

WRITER = """
import sys
from pathlib import Path
from tgpo_ray.cluster import move_into_place, staging_folder
target, version = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
while True:
    version += 1
    with staging_folder(target) as folder:
        for name in ("config.json", "a.safetensors", "b.safetensors"):
            (folder / name).write_text(str(version))
        move_into_place(folder, target)
"""


def versions(folder: Path) -> set[str]:
    return {(folder / name).read_text() for name in ("config.json", "a.safetensors", "b.safetensors")}


def test_an_export_that_is_killed_leaves_a_whole_model(tmp_path: Path) -> None:
    target, reached = tmp_path / "policy", 0
    for delay in (0.05, 0.11, 0.17, 0.23):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(target), str(reached)], stdout=subprocess.PIPE, cwd=ROOT
        ) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
        there = target if target.exists() else tmp_path / ".policy.old"
        assert len(versions(there)) == 1
        (version,) = versions(there)
        assert int(version) > reached
        with staging_folder(target):  # the next export puts back what lay beside
            assert versions(target) == {version}
        reached = int(version)
    assert [it.name for it in tmp_path.iterdir()] == ["policy"]


def test_an_export_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("old")
    with pytest.raises(OSError, match="full"), staging_folder(tmp_path / "policy") as folder:
        (folder / "config.json").write_text("new")
        raise OSError("the disk is full")
    assert (tmp_path / "policy" / "config.json").read_text() == "old"
    assert [it.name for it in tmp_path.iterdir()] == ["policy"]


def test_a_folder_in_one_that_may_not_be_written_is_filled_in_place(tmp_path: Path) -> None:
    target = tmp_path / "mount"
    target.mkdir()
    for name in ("config.json", "model-00001-of-00002.safetensors", "README.md"):
        (target / name).write_text("old")
    folder = target / ".new"
    folder.mkdir()
    (folder / "config.json").write_text("new")
    move_into_place(folder, target)
    assert (target / "config.json").read_text() == "new"
    assert sorted(it.name for it in target.iterdir() if it.is_file()) == ["README.md", "config.json"]


def test_a_uri_keeps_no_file_of_an_older_model(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, names in ((source, ["config.json"]), (target, ["old.safetensors", "README.md"])):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name)
    copy_over(str(source), target.as_uri())
    assert sorted(it.name for it in target.iterdir()) == ["README.md", "config.json"]
