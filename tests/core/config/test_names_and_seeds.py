"""Names that become folders, texts that become file names, pages and tokens, and seeds that many libraries take."""

from typing import Any

import numpy as np
import pytest

from tgpo_ray.algorithms import GRPOConfig
from tgpo_ray.config import AlgorithmConfig, ConfigError
from tgpo_ray.config.values import MAX_SEED


def read(**keys: Any) -> AlgorithmConfig:
    return AlgorithmConfig.from_dict({"algorithm": "GRPO", "model": {"path": "org/policy"}, **keys})


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "a/b", "/tmp/a", "../a", "a\\b", "a\nb", "a\0", " a", "-rf", "\ud83d"]
)
def test_a_name_that_is_no_folder_of_its_own_is_refused(name: str):
    with pytest.raises(ConfigError) as error:
        read(name=name)
    assert str(error.value).startswith("name: ")
    assert repr(name) in str(error.value)


def test_a_name_that_is_too_long_for_a_folder_is_refused():
    with pytest.raises(ConfigError, match="name: must have at most 200 bytes, got 201: shorten it"):
        read(name="x" * 201)
    with pytest.raises(ConfigError, match="got 202"):
        read(name="é" * 101)


@pytest.mark.parametrize("name", ["run", "gsm8k-1.5B_2", "...", "Lauf 3", "学习", "x" * 200])
def test_ordinary_names_are_accepted(name: str):
    assert read(name=name).name == name


def test_the_builder_refuses_them_too():
    with pytest.raises(ValueError, match="must name a folder"):
        GRPOConfig().name = ".."


@pytest.mark.parametrize(
    "keys",
    [
        {"checkpointing": {"storage_path": "a\0b"}},
        {"model": {"path": "half \ud83d of one"}},
        {"reporting": {"wandb": "a\0"}},
        {"env": {"id": "tgpo/Math-v0", "name": "\udc00"}},
    ],
)
def test_no_text_of_the_file_has_a_nul_or_half_a_character(keys: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"a text has no NUL character|half of a character"):
        read(**keys)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64])
def test_a_seed_that_a_library_refuses_is_refused(seed: int):
    bound = ">= 0" if seed < 0 else "<= 4294967295"
    with pytest.raises(ConfigError, match=f"seed: must be {bound}, got {seed}"):
        read(seed=seed)


def test_every_library_takes_what_follows_from_the_largest_seed():
    import torch

    from tgpo_ray.driver.algorithm import Algorithm
    from tgpo_ray.env_runners import Cursor, evaluation_tasks
    from tgpo_ray.env_runners.runner import request_seed

    algorithm = Algorithm.__new__(Algorithm)
    algorithm.config = read(seed=MAX_SEED)
    of_iteration = algorithm.sampling_seed(10**6) + 1
    torch.manual_seed(of_iteration)  # `seed_by: runner`
    np.random.RandomState(MAX_SEED)  # vLLM's start
    assert 0 <= request_seed(of_iteration, 0, 0, MAX_SEED) < 2**62
    assert Cursor([None, 3], [1.0, 1.0], MAX_SEED).next(4)
    assert np.random.RandomState(evaluation_tasks(0, 1, None, MAX_SEED)[0].seed)  # some environments seed numpy
