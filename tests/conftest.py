"""One Ray cluster, one group of runners and one of teachers serve the whole suite: start-ups are what costs.

What tests share, they leave as it was. The groups are lent to one test file at a time. A configuration that a fixture
of a wider scope than one test holds, or that its algorithm holds, is compared after every test.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.paths import DATA
from tests.train_processes import start_train, write_job  # noqa: F401  (fixtures for every folder of tests)

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
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
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
    return MappingProxyType({"policy": str(policy), "teacher": str(teacher)})


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
def make_config(tiny_models: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
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


# ---- the groups


@pytest.fixture(scope="session")
def _env_runners(ray_cluster: Any, make_config: Callable[..., Any]) -> Iterator[Any]:
    from tgpo_ray.env_runners.building import build_env_runners

    group = build_env_runners(make_config("GRPO").resolved(gpus=False))
    group.wait_until_ready()
    yield group
    group.stop()


@pytest.fixture(scope="session")
def policy_buckets(tiny_models: Mapping[str, str]) -> list[Any]:
    """The weights of the policy's folder, as runners take them."""
    from transformers import AutoModelForCausalLM

    from tgpo_ray.models.weight_buckets import fill_buckets

    return list(fill_buckets(AutoModelForCausalLM.from_pretrained(tiny_models["policy"]).named_parameters()))


@pytest.fixture(scope="module")
def env_runners(_env_runners: Any, policy_buckets: list[Any]) -> Iterator[Any]:
    """One EnvRunner with the policy, its training and its held-out environment; a file begins with the first weights.

    An algorithm that is built on it gives it its own.
    """
    group = _env_runners
    group.sync_weights(group.weights_version + 1, policy_buckets)
    runners, restarts = list(group.runners), group.num_restarts
    yield group
    assert (group.runners, group.num_restarts) == (runners, restarts), "a test has harmed the shared runners"
    assert group.prefixes is None, "a test has left prefixes at the shared runners"


@pytest.fixture
def sync_model(env_runners: Any, policy_buckets: list[Any]) -> Iterator[Callable[[Any], None]]:
    """sync_model(model) -> the runners sample from its weights until the test ends, then from the first ones again."""
    from tgpo_ray.models.weight_buckets import fill_buckets

    yield lambda model: env_runners.sync_weights(
        env_runners.weights_version + 1, list(fill_buckets(model.named_parameters()))
    )
    env_runners.sync_weights(env_runners.weights_version + 1, policy_buckets)


@pytest.fixture(scope="session")
def _teachers(ray_cluster: Any, make_config: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    from tgpo_ray.teachers.building import build_teachers

    config = make_config("TGPO").resolved(gpus=False)
    groups = build_teachers(config, config.teachers, unmapped=config.guidance.unmapped)
    groups["default"].wait_until_ready()
    yield groups
    groups["default"].stop()


@pytest.fixture(scope="module")
def teachers(_teachers: dict[str, Any]) -> Iterator[Mapping[str, Any]]:
    """One pool, `default`, of one Teacher."""
    pool = _teachers["default"]
    handles = pool.handles
    yield MappingProxyType(_teachers)
    assert pool.handles == handles, "a test has harmed the shared teacher"


@pytest.fixture(scope="module")
def no_worker_outlives_its_module() -> Iterator[None]:
    """The pool of verifiers that this process shares ends with the file."""
    from tgpo_ray.envs import close_shared_pool

    yield
    close_shared_pool()


@pytest.fixture(scope="session")
def clean_environment() -> Mapping[str, str]:
    """This process's environment without what Ray and pytest put into it; `python` and `ray` are this interpreter's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTEST_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return MappingProxyType({**kept, "PATH": path, "OMP_NUM_THREADS": "1"})


# ---- what is shared stays as it is

SHARED_CONFIGS: dict[str, list[tuple[Any, Any]]] = {}
"""Fixture -> its configurations, each with what it said at first."""


def configs_in(value: Any) -> list[Any]:
    """A fixture's configuration or its algorithm's; where the fixture is a tuple, those of its parts."""
    parts = value if isinstance(value, tuple) else (value,)
    # attributes and not properties: of a value that is no algorithm's, `config` may raise (Ray's Result)
    found = [each for part in parts for each in (part, getattr(part, "__dict__", {}).get("config"))]
    return [each for each in found if hasattr(type(each), "resolved")]


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    value = yield
    if fixturedef.scope != "function":
        SHARED_CONFIGS[fixturedef.argname] = [(config, config.to_dict()) for config in configs_in(value)]
    return value


def pytest_fixture_post_finalizer(fixturedef: pytest.FixtureDef[Any]) -> None:
    if fixturedef.scope != "function":
        SHARED_CONFIGS.pop(fixturedef.argname, None)


@pytest.fixture(autouse=True)
def _shared_configs_stay_as_they_are() -> Iterator[None]:
    """Ends after every other fixture of the test, so what `monkeypatch` undoes is no change."""
    yield
    for name, configs in SHARED_CONFIGS.items():
        SHARED_CONFIGS[name] = [(config, config.to_dict()) for config, _ in configs]  # later tests are not to blame
        assert SHARED_CONFIGS[name] == configs, f"the test has changed the configuration of the fixture {name!r}"


def pytest_configure() -> None:
    os.environ.pop("RAY_ADDRESS", None)  # no test may join a cluster that is in use


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
