"""One Ray cluster, one group of runners and one of teachers serve the whole suite: start-ups are what costs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.paths import DATA

SYMBOLS = [*"0123456789+-*=,;", "\\boxed{", "}"]
MAX_PROMPT_TOKENS, MAX_RESPONSE_TOKENS = 16, 32
ENV, TRAIN_KWARGS, TEST_KWARGS = "tgpo/Arithmetic-v0", {"digits": [1, 1]}, {"digits": [1, 1], "split": "test"}


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The evaluation sets; without them the test is skipped."""
    if not DATA.is_dir():
        pytest.skip(f"no data folder at {DATA} (set TGPO_RAY_DATA)")
    return DATA


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a random `policy` (Qwen2, tied head) and `teacher` (Qwen3, untied head) over arithmetic characters."""
    from tgpo_ray.models import character_tokenizer, write_model

    folder = tmp_path_factory.mktemp("models")
    tokenizer = character_tokenizer(SYMBOLS)
    shape = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
    policy = write_model(
        folder / "policy", "qwen2", tokenizer, seed=0, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        tie_word_embeddings=True, **shape,
    )  # fmt: skip
    teacher = write_model(
        folder / "teacher", "qwen3", tokenizer, seed=1, hidden_size=48, intermediate_size=64, num_hidden_layers=2,
        head_dim=32, tie_word_embeddings=False, **shape,
    )  # fmt: skip
    return {"policy": str(policy), "teacher": str(teacher)}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A local Ray that counts more CPUs than there are: the suite's actors are many and mostly idle."""
    import ray

    # "local": not a cluster that runs on this machine, nor one whose address was left in /tmp/ray
    context = ray.init(
        "local", num_cpus=16, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING
    )
    yield context
    ray.shutdown()


@pytest.fixture(scope="session")
def make_config(tiny_models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """make_config("TGPO", training={...}, ...) -> a configuration of the tiny models that fits the shared groups."""

    def make(algorithm: str = "GRPO", /, **sections: Any) -> Any:
        from tgpo_ray.config import AlgorithmConfig

        defaults: dict[str, Any] = {
            "model": {"path": tiny_models["policy"]},
            "env_runners": {
                "max_prompt_tokens": MAX_PROMPT_TOKENS,
                "max_response_tokens": MAX_RESPONSE_TOKENS,
                "kv_cache_memory": "64MiB",
                "num_cpus_per_env_runner": 0.5,
            },
            "learners": {"num_cpus_per_learner": 0.5, "token_budget": 512},
            "training": {"num_iterations": 2, "groups_per_iteration": 4, "group_size": 4, "lr": 1e-3},
            "evaluation": {"envs": [{"id": ENV, "kwargs": TEST_KWARGS}], "max_problems": 3},
            "checkpointing": {"storage_path": str(tmp_path_factory.mktemp("runs"))},
            "reporting": {"progress": False},
        }
        if algorithm == "SFT":
            defaults["training"] = {"num_iterations": 2, "batch_size": 4, "lr": 1e-3}
        else:
            defaults["env"] = {"id": ENV, "kwargs": TRAIN_KWARGS}
        if algorithm == "TGPO":
            defaults["teacher"] = {
                "path": tiny_models["teacher"], "kv_cache_memory": "64MiB", "num_cpus_per_replica": 0.5
            }  # fmt: skip
            defaults["guidance"] = {"weight": 0.1}
        merged = {key: {**defaults.get(key, {}), **value} if isinstance(value, dict) else value
                  for key, value in {**defaults, **sections}.items()}  # fmt: skip
        return AlgorithmConfig.from_dict({"algorithm": algorithm, "name": "run", **merged})

    return make


@pytest.fixture(scope="session")
def env_runners(ray_cluster: Any, make_config: Callable[..., Any]) -> Iterator[Any]:
    """One EnvRunner with the policy, its training and its held-out environment. Tests sync the weights they want."""
    from tgpo_ray.env_runners.building import build_env_runners

    group = build_env_runners(make_config("GRPO").resolved(gpus=False))
    group.wait_until_ready()
    yield group
    group.stop()


@pytest.fixture(scope="session")
def teachers(ray_cluster: Any, make_config: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """One pool, `default`, of one Teacher."""
    from tgpo_ray.teachers.building import build_teachers

    groups = build_teachers(make_config("TGPO").resolved(gpus=False))
    groups["default"].wait_until_ready()
    yield groups
    groups["default"].stop()


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """This process's environment without what Ray and pytest put into it; `python` and `ray` are this interpreter's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTEST_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1"}


def pytest_configure() -> None:
    os.environ.pop("RAY_ADDRESS", None)  # no test may join a cluster that is in use


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
