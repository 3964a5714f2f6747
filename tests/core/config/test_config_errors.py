"""What is said of a wrong key or value: one line a problem, with the path as the user wrote it."""

from typing import Any

import pytest
from pydantic import ValidationError

from tgpo_ray.algorithms import GRPOConfig, TGPOConfig
from tgpo_ray.config import AlgorithmConfig, ConfigError, TrainingConfig, known_algorithms

KNOWN = ", ".join(sorted(known_algorithms()))


def problems(data: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        AlgorithmConfig.from_dict({"algorithm": "TGPO", **data})
    return caught.value.problems


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"training": {"guidence_weight": 1}},
            "training.guidence_weight: unknown key; did you mean 'guidance.weight'?",
        ),
        ({"training": {"grop_size": 4}}, "training.grop_size: unknown key; did you mean 'training.group_size'?"),
        (
            {"training": {"temperature": 1}},
            "training.temperature: unknown key; did you mean 'env_runners.temperature'?",
        ),
        ({"training": {"learning_rate": 1}}, "training.learning_rate: unknown key; did you mean 'training.lr'?"),
        ({"guidance_weight": 1}, "guidance_weight: unknown key; did you mean 'guidance.weight'?"),
        ({"modle": {}}, "modle: unknown key; did you mean 'model'?"),
        ({"teacher": {"pth": "x"}}, "teacher.pth: unknown key; did you mean 'teacher.path'?"),
        ({"teachers": {"a": {"pth": "x"}}}, "teachers.a.pth: unknown key; did you mean 'teachers.a.path'?"),
        ({"env": {"id": "a", "wieght": 1}}, "env.wieght: unknown key; did you mean 'env.weight'?"),
        ({"envs": [{"id": "a"}, {"id": "b", "kwarg": 1}]}, "envs.1.kwarg: unknown key; did you mean 'envs.1.kwargs'?"),
        ({"xyzzy": 1}, "xyzzy: unknown key"),
        (
            {"evaluation": {"envs": [{"ids": "a"}]}},
            "evaluation.envs.0.ids: unknown key; did you mean 'evaluation.envs.0.id'?",
        ),
        ({"learners": {"zero": 1}}, "learners.zero: unknown key; did you mean 'learners.zero_stage'?"),
    ],
)
def test_an_unknown_key_names_the_nearest_of_the_whole_file(data: dict, message: str):
    assert message in problems(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"training": {"lr": "abc"}}, "training.lr: expected a number, got 'abc' (Learning rate of AdamW)"),
        ({"training": {"lr": "1e-6"}}, "training.lr: expected a number, got '1e-6' (Learning rate of AdamW)"),
        ({"training": {"lr": True}}, "training.lr: expected a number, got True (Learning rate of AdamW)"),
        ({"training": {"lr": -1.0}}, "training.lr: must be > 0, got -1.0 (Learning rate of AdamW)"),
        ({"training": {"lr": float("nan")}}, "training.lr: expected a finite number, got nan (Learning rate of AdamW)"),
        ({"training": {"clip_low": 1.0}}, "training.clip_low: must be < 1, got 1.0 (The ratio is clipped at 1 - this)"),
        ({"training": {"group_size": 2.5}}, "training.group_size: expected a whole number, got 2.5 (Episodes"),
        ({"training": {"betas": [0.9]}}, "training.betas.1: required"),
        ({"training": []}, "training: expected keys and values, got []"),
        ({"reporting": {"tensorboard": "no"}}, "reporting.tensorboard: expected true or false, got 'no'"),
        ({"model": {"path": 3}}, "model.path: expected text, got 3"),
        ({"model": {"dtype": "bf16"}}, "model.dtype: expected 'auto', 'float32' or 'bfloat16', got 'bf16'"),
        (
            {"learners": {"engine": "torh"}},
            "learners.engine: expected 'torch' or 'deepspeed', got 'torh'; did you mean 'torch'?",
        ),
        ({"learners": {"zero_stage": 4}}, "learners.zero_stage: expected 0, 1, 2 or 3, got 4"),
        (
            {"env_runners": {"kv_cache_memory": "4GX"}},
            "env_runners.kv_cache_memory: expected bytes, as 40GiB, 512MiB or a whole number, got '4GX'",
        ),
        ({"env_runners": {"kv_cache_memory": 0}}, "env_runners.kv_cache_memory: must be >= 1, got 0"),
        ({"env_runners": {"kv_cache_memory": "0GiB"}}, "env_runners.kv_cache_memory: must be >= 1, got '0GiB'"),
        ({"env": {}}, "env.id: required"),
        ({"envs": {"id": "x"}}, "envs: expected a list, got {'id': 'x'}"),
        ({"teachers": [1]}, "teachers: expected keys and values, got [1]"),
        ({"fault_tolerance": {"max_unguided_share": 5}}, "fault_tolerance.max_unguided_share: must be <= 1, got 5"),
        ({"guidance": {"label": "sampled"}}, "guidance.label: expected 'argmax', 'sample' or 'topk', got 'sampled'"),
    ],
)
def test_a_wrong_value_says_what_is_expected(data: dict, message: str):
    assert any(problem.startswith(message) for problem in problems(data)), problems(data)


def test_every_problem_of_a_file_is_listed_at_once(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("algorithm: TGPO\nseed: -1\ntraining: {lr: abc, nope_at_all: 1}\n")
    with pytest.raises(ConfigError) as caught:
        AlgorithmConfig.from_yaml(path)
    assert len(caught.value.problems) == 3
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())


def test_a_section_of_another_algorithm_names_those_that_have_it():
    with pytest.raises(ConfigError) as caught:
        GRPOConfig.from_dict({"guidance": {}, "teacher": {"path": "x"}, "sed": 1})
    *foreign, unknown = caught.value.problems
    for section, problem in zip(("guidance", "teacher"), foreign, strict=True):
        said, _, owners = problem.partition(": GRPOConfig has no such section; algorithms that have it: ")
        assert said == section and "TGPO" in owners.split(", ") and "GRPO" not in owners.split(", ")
    assert unknown == "sed: unknown key; did you mean 'seed'?"


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("tgpo", "algorithm: unknown 'tgpo'; did you mean 'TGPO'?"),
        ("xyz", f"algorithm: unknown 'xyz'. Known: {KNOWN}, or an import path such as my_pkg.mod:MyConfig"),
        (3, "algorithm: expected a name or an import path, got 3"),
        ("no_such_pkg:X", "algorithm: cannot import 'no_such_pkg:X': no module named 'no_such_pkg'"),
        ("json:X", "algorithm: cannot import 'json:X': module 'json' has no attribute 'X'"),
        ("json:JSONDecoder", "algorithm: 'json:JSONDecoder' is neither an AlgorithmConfig nor a class whose config"),
    ],
)
def test_a_wrong_algorithm_is_explained(algorithm: Any, message: str):
    assert problems({"algorithm": algorithm})[0].startswith(message)


def test_the_base_class_needs_an_algorithm():
    with pytest.raises(ConfigError, match=f"algorithm: required; known: {KNOWN}"):
        AlgorithmConfig.from_dict({})


def test_a_class_refuses_the_file_of_another_algorithm():
    with pytest.raises(ConfigError, match="algorithm: GRPO is a GRPOConfig, not a TGPOConfig"):
        TGPOConfig.from_dict({"algorithm": "GRPO"})


def test_an_assignment_is_checked_and_names_its_key():
    config = TGPOConfig()
    with pytest.raises(ValidationError, match=r"\nlr\n  Input should be greater than 0 .*input_value=-1\.0"):
        config.training.lr = -1.0
    with pytest.raises(ValidationError, match=r"\nlrr\n  Object has no attribute 'lrr'"):
        config.training.lrr = 1.0  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValidationError, match=r"\nlr\n  Input should be greater than 0"):
        TrainingConfig().lr = 0.0
    assert config.training.lr == 1e-6
