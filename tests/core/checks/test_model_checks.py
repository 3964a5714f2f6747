"""What a run asks of its models' tokenizers and configurations, found before any actor starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.core.chat_templates import APPENDING, chat_tokenizer
from tgpo_ray.checks import check_models
from tgpo_ray.config import ConfigError

MakeConfig = Callable[..., Any]
THINKING = APPENDING + "{%- if enable_thinking %}<think>{%- endif %}"


def problems(config: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_models(config)
    return caught.value.problems


@pytest.fixture
def chat_folder(tmp_path: Path) -> str:
    tokenizer = chat_tokenizer(THINKING)
    tokenizer.chat_template = THINKING
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


# ---- chat_template_kwargs


def test_policy_and_teachers_are_asked_whether_their_templates_read_the_values(
    make_config: MakeConfig, chat_folder: str
) -> None:
    def config(policy: dict[str, Any], teacher: dict[str, Any]) -> Any:
        return make_config(
            "TGPO",
            model={"tokenizer": chat_folder, "chat_template_kwargs": policy},
            teacher={"tokenizer": chat_folder, "prompt": "own_template", "chat_template_kwargs": teacher},
        )

    check_models(config({"enable_thinking": True}, {"enable_thinking": False}))
    first, second = problems(config({"thinking": True}, {"tools": []}))
    assert first.startswith("model.chat_template_kwargs.thinking: the tokenizer's chat template does not read it")
    assert second.startswith("teachers.default.chat_template_kwargs.tools: is set by the package")


def test_the_values_reach_the_engine_of_the_runners_and_the_teacher(make_config: MakeConfig, chat_folder: str) -> None:
    from tgpo_ray.env_runners import env_runner_spec
    from tgpo_ray.teachers import teacher_spec

    config = make_config(
        "TGPO",
        model={"tokenizer": chat_folder, "chat_template_kwargs": {"enable_thinking": True}},
        teacher={"tokenizer": chat_folder, "chat_template_kwargs": {"enable_thinking": False}},
    ).resolved(gpus=False)
    assert env_runner_spec(config).engine.chat_template_kwargs == {"enable_thinking": True}
    spec = teacher_spec(config, config.teachers["default"], unmapped="mask")
    assert spec.engine.chat_template_kwargs == {"enable_thinking": False}


# ---- the end of a sequence


def policy_without(tiny_models: Mapping[str, str], folder: Path, *, generation: bool, tokenizer: bool) -> str:
    """A copy of the policy, without the end of sequence of its generation config or of its tokenizer."""
    shutil.copytree(tiny_models["policy"], folder)
    if generation:
        (folder / "generation_config.json").unlink()
        facts = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None}
        (folder / "config.json").write_text(json.dumps(facts))
    if tokenizer:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": None}))
    return str(folder)


@pytest.mark.parametrize("algorithm", ["GRPO", "SFT"])
def test_a_policy_that_names_no_end_of_sequence_is_refused(
    make_config: MakeConfig, tiny_models: Mapping[str, str], tmp_path: Path, algorithm: str
) -> None:
    path = policy_without(tiny_models, tmp_path / "policy", generation=True, tokenizer=True)
    (only,) = problems(make_config(algorithm, model={"path": path}))
    assert only.startswith(f"model.path: {path} names no end of sequence, so that no response would end before")
    assert "generation_config.json" in only


@pytest.mark.parametrize("kept", ["generation", "tokenizer"])
def test_one_of_the_two_is_enough(
    make_config: MakeConfig, tiny_models: Mapping[str, str], tmp_path: Path, kept: str
) -> None:
    gone = {"generation": kept != "generation", "tokenizer": kept != "tokenizer"}
    check_models(make_config(model={"path": policy_without(tiny_models, tmp_path / "policy", **gone)}))


def test_a_trace_ends_with_the_generation_configs_id_where_the_tokenizer_names_none(
    tiny_models: Mapping[str, str], tmp_path: Path
) -> None:
    from tgpo_ray.models import end_of_response, load_tokenizer

    path = policy_without(tiny_models, tmp_path / "policy", generation=False, tokenizer=True)
    tokenizer = load_tokenizer(path, trust_remote_code=False)
    assert tokenizer.eos_token_id is None
    assert (
        end_of_response(path, tokenizer)
        == json.loads((Path(path) / "generation_config.json").read_text())["eos_token_id"]
    )
    bare = policy_without(tiny_models, tmp_path / "bare", generation=True, tokenizer=True)
    with pytest.raises(ValueError, match="names no end of sequence"):
        end_of_response(bare, load_tokenizer(bare, trust_remote_code=False))


# ---- hf_overrides


@pytest.mark.parametrize("where", ["model", "teacher", "reference"])
def test_an_override_that_a_model_would_ignore_is_refused_for_every_model(make_config: MakeConfig, where: str) -> None:
    wrong, right = {"max_position_embedings": 256}, {"max_position_embeddings": 256}
    if where == "teacher":
        config = make_config("TGPO", teacher={"hf_overrides": wrong}, model={"hf_overrides": right})
        key, kind = "teachers.default", "Qwen3Config"
    else:
        training = {"kl_weight": 0.1} if where == "reference" else {}
        config = make_config("GRPO", training=training, model={"hf_overrides": wrong})
        key, kind = "model", "Qwen2Config"
    (only,) = [problem for problem in config.problems() if "hf_overrides" in problem]
    assert only.startswith(f"{key}.hf_overrides.max_position_embedings: {kind} of ")
    assert only.endswith("has no such key, it would change nothing")


def test_a_reference_of_another_kind_is_asked_too(make_config: MakeConfig, tiny_models: Mapping[str, str]) -> None:
    config = make_config(
        "GRPO",
        training={"kl_weight": 0.1},
        reference={"path": tiny_models["teacher"]},
        model={"hf_overrides": {"max_window_layers": 1, "no_such": 1}},
    )
    found = [problem for problem in config.problems() if ".hf_overrides.no_such" in problem]
    assert [problem.split(" of ")[0].split(": ")[1] for problem in found] == ["Qwen2Config", "Qwen3Config"]


def test_overrides_that_the_models_have_are_taken(make_config: MakeConfig) -> None:
    values = {"max_position_embeddings": 256, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    config = make_config("TGPO", model={"hf_overrides": values}, teacher={"hf_overrides": values})
    assert config.problems() == []
