"""The runs of `yaml/study`: they are read, and differ in their method alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paths import ROOT
from tgpo_ray.config import AlgorithmConfig

FILES = sorted((ROOT / "yaml" / "study").glob("lookup_chain*.yaml"))
TGPO = ROOT / "yaml" / "study" / "lookup_chain.yaml"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_run_of_the_chains_is_read_and_has_the_batch_of_the_others(path: Path) -> None:
    config, tgpo = AlgorithmConfig.from_yaml(path).check(files=False), AlgorithmConfig.from_yaml(TGPO)
    assert config.model.path == tgpo.model.path
    assert config.evaluation == tgpo.evaluation
    assert config.env_runners == tgpo.env_runners and config.learners == tgpo.learners
    ours, theirs = config.to_dict()["training"], tgpo.to_dict()["training"]
    assert (ours["num_iterations"], ours["lr"]) == (theirs["num_iterations"], theirs["lr"])
    if config.algorithm == "SFT":
        assert ours["batch_size"] == theirs["groups_per_iteration"] * theirs["group_size"]
    else:
        assert config.to_dict()["envs"][0]["kwargs"] == {"num_problems": 256}
        trace = int(config.algorithm == "LUFFY")  # beside the rollouts
        assert ours["group_size"] == theirs["group_size"] + trace
        assert ours["groups_per_iteration"] == theirs["groups_per_iteration"]


def test_there_is_a_run_for_each_group_of_methods() -> None:
    assert {AlgorithmConfig.from_yaml(path).algorithm for path in FILES} == {"TGPO", "GRPO", "RKL", "SFT", "LUFFY"}
