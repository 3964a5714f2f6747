"""Under ZeRO-3 a model is split over the ranks as it is loaded, and is the same model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.tiny_architectures import write_tiny
from tests.core.learners.learner_cases import ALL, spec_of, three_groups
from tests.core.models.bent_models import write_kind
from tests.core.ranks import in_ranks
from tgpo_ray.learners.learner import Learner
from tgpo_ray.learners.strategies import StrategyOptions
from tgpo_ray.models import LoraSpec, load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ZERO_3: dict[str, Any] = {"strategy": "deepspeed", "zero_stage": 3, "lr": 1e-3}


ARCHITECTURES = ("qwen3", "qwen2", "gpt2", "qwen3_moe", "deepseek_v3", "glm4_moe", "falcon_h1")


@dataclass(frozen=True)
class Split:
    """What one rank has of a model that was split as it was loaded."""

    state: dict[str, Any]  # every weight and buffer, whole
    own: int  # numbers of parameters on this rank
    ends: str  # the end-of-sequence ids


def _loaded(folders: list[str], dtype: str) -> list[Split]:
    from tgpo_ray.learners.policy import load_policy
    from tgpo_ray.models import gathered

    found = []
    for folder in folders:
        model: Any = load_policy(spec_of(folder, options=StrategyOptions(**ZERO_3, dtype=dtype)))  # type: ignore
        assert all(parameter.numel() == 0 for parameter in model.parameters())
        state = {}
        for name, it in [*model.named_parameters(), *model.named_buffers()]:
            with gathered([it]):
                state[name] = it.detach().clone()
        own = sum(parameter.ds_tensor.numel() for parameter in model.parameters())
        found.append(Split(state, own, str(model.generation_config.eos_token_id)))
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_split_model_is_the_model(dtype: str, tmp_path: Path) -> None:
    folders = [str(_in_shards(write_tiny(name, tmp_path / name))) for name in ARCHITECTURES]
    ranks = in_ranks(_loaded, folders, dtype)
    for index, folder in enumerate(folders):
        whole: Any = load_model(folder, dtype=getattr(torch, dtype), hf_overrides={}, trust_remote_code=False)
        expected = dict([*whole.named_parameters(), *whole.named_buffers()])
        number = sum(it.numel() for it in whole.parameters())
        for split in (rank[index] for rank in ranks):
            assert split.state.keys() == expected.keys()
            for name, value in expected.items():
                assert split.state[name].dtype == value.dtype, (folder, name)
                assert torch.equal(split.state[name], value), (folder, name)
            assert number / 2 <= split.own <= number / 2 + len(expected)  # padding
            assert split.ends == str(whole.generation_config.eos_token_id)


def _in_shards(folder: Path) -> Path:
    """Write the model of a folder anew, in several files and with values also where they had been zeros or ones."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for it in model.state_dict().values():
            it.add_(0.1 * torch.randn(it.shape) if it.is_floating_point() else 0)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


def _refusals(folders: list[str]) -> list[str]:
    """Returns what loading each of the folders raises, and then what the check of the first one's head does."""
    from tgpo_ray.kernels import LogitTransform
    from tgpo_ray.learners.policy import load_policy
    from tgpo_ray.models.head_check import check_head

    found, options = [], StrategyOptions(**ZERO_3)
    for folder in folders:
        try:
            model = load_policy(spec_of(folder, options=options))
            check_head(model, folder, LogitTransform(), dropout=False)
        except ValueError as error:
            found.append(str(error))
    return found


def test_what_is_not_the_model_is_refused_by_every_rank(tmp_path: Path) -> None:
    """As where the model is whole: logits that the head does not know, a wrong shape, weights that lack."""
    changes = {"bent": {}, "wide": {"intermediate_size": 64}, "deep": {"num_hidden_layers": 3}}
    for name, change in changes.items():
        write_kind(tmp_path / name, "granite")
        file = tmp_path / name / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    for bent, wide, deep in in_ranks(_refusals, [str(tmp_path / name) for name in changes]):
        assert "its own logits differ by up to" in bent
        assert "_proj.weight is [" in wide and "by config.json" in wide
        assert "the files lack 9 tensors (model.layers.*." in deep


def _trained(folder: str, lora: LoraSpec | None, dtype: str) -> tuple[dict[str, Any], list[float]]:
    options = StrategyOptions(**ZERO_3, dtype=dtype)  # pyright: ignore[reportArgumentType]
    learner = Learner(spec_of(folder, options=options, lora=lora))
    assert all(parameter.numel() == 0 for parameter in learner._model.parameters())
    norms = []
    for _ in range(2):
        learner.accumulate([[three_groups()[learner.rank]]], ALL)
        norms.append(learner.step(20.0, 1e-3)["grad_norm"])
    return {name: weight.clone() for name, weight in learner.named_weights()}, norms


@pytest.mark.parametrize("lora", [None, LoraSpec(4, 8.0)], ids=["all weights", "adapters"])
def test_a_split_model_trains_as_a_whole_one(lora: LoraSpec | None, tmp_path: Path) -> None:
    folder = str(write_tiny("qwen3", tmp_path))
    learner = Learner(spec_of(folder, options=StrategyOptions(lr=1e-3), lora=lora))
    norms = []
    for _ in range(2):
        learner.accumulate([[piece] for piece in three_groups()[:2]], ALL)
        norms.append(learner.step(20.0, 1e-3)["grad_norm"])
    for weights, split_norms in in_ranks(_trained, folder, lora, "float32"):
        assert split_norms == pytest.approx(norms, rel=1e-4)
        for name, weight in learner.named_weights():
            torch.testing.assert_close(weights[name], weight, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["gpt2", "qwen3_moe"])
def test_adapters_train_over_a_split_model_in_half_precision(name: str, tmp_path: Path) -> None:
    """Layers whose weights are stored transposed, and experts, which have no adapters."""
    folder = str(write_tiny(name, tmp_path))
    (first, first_norms), (second, second_norms) = in_ranks(_trained, folder, LoraSpec(4, 8.0), "bfloat16")
    assert first_norms == second_norms and min(first_norms) > 0
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
