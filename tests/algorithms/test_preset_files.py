"""What all files under yaml/paper have in common: the command in their header, and the gate on the format."""

from __future__ import annotations

import pytest

from tests.algorithms.test_paper_presets import PAPER, PRESETS, SIZES, load, value_of
from tgpo_ray.config import AlgorithmConfig


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PRESETS)
def test_held_out_sets_are_scored_as_training_is(size, name):
    """SimpleRL-Zero has no gate on the format, the others have one."""
    config = load(size, name)
    shared = getattr(config.evaluation, "kwargs", {})  # of all sets, where a run has any
    gates = {
        env.kwargs.get("format_gate", shared.get("format_gate", True))
        for env in [*config.envs, *config.evaluation.envs]
    }
    assert gates == {not name.startswith("simplerl")}


@pytest.mark.parametrize("path", sorted(PAPER.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_command_in_the_header_names_keys_of_the_preset(path):
    """With a path of the user's for each `...` it makes a configuration, and it names every file that is read."""
    command = next(line for line in path.read_text().splitlines() if line.startswith("#   python"))
    words = command.removeprefix("#   python -m tgpo_ray.train ").split()
    assert words[0] == path.relative_to(PAPER.parents[1]).as_posix()
    overrides = [word.replace("...", "/data/mine.jsonl") for word in words[1:]]
    config = AlgorithmConfig.from_yaml(path, overrides=overrides)
    named = {key.partition("=")[0] for key in overrides}
    assert {value_of(config, key) for key in named} == {"/data/mine.jsonl"}
    has = {key for key in ("data.path", "traces.path") if hasattr(config, key.partition(".")[0])}
    assert has | {f"envs.{i}.kwargs.path" for i in range(len(config.envs))} <= named
