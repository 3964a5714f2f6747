"""docs/cluster.md, as far as files can say: Ray knows its commands and options, its YAML is of the right form."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import yaml
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


def yaml_named(name: str) -> Any:
    (text,) = re.findall(rf"```yaml\n# {re.escape(name)}\n(.*?)```", PAGE, flags=re.DOTALL)
    return yaml.safe_load(text)


def ray_commands() -> list[str]:
    """Every `ray ...` command in a block or between backticks, without what it passes on after `--`."""
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)).replace("\\\n", "")
    lines = [part for line in blocks.splitlines() for part in re.split(r"&&|#", line.removeprefix("$ "))]
    found = [re.sub(r"^(\w+=\S+ )+", "", line.strip()).removesuffix("&") for line in lines]
    found += re.findall(r"`(ray [^`]+)`", PAGE)
    return sorted({line.split(" -- ")[0].strip() for line in found if line.startswith("ray ")})


@pytest.mark.parametrize("line", ray_commands())
def test_ray_knows_the_command_and_its_options(line: str) -> None:
    from ray.scripts.scripts import cli

    words = shlex.split(line)[1:]
    command: Any = cli
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"{line}: ray has no command {name!r}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    assert [word for word in words if word.startswith("--") and word.split("=")[0] not in options] == []


def test_the_page_has_commands() -> None:
    assert len(ray_commands()) > 10
    assert "ray start --head" in ray_commands()


def test_the_cluster_launchers_file_is_valid_by_rays_schema() -> None:
    import jsonschema
    import ray.autoscaler

    config = yaml_named("cluster.yaml")
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    assert sum(kind.get("min_workers", 0) for kind in config["available_node_types"].values()) <= config["max_workers"]
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all(line == "ray stop" or line.startswith("RAY_AUTH_MODE=token ray start ") for line in starts)


def test_the_pods_of_the_ray_job_ask_for_what_they_get_and_mount_what_is_there() -> None:
    spec = yaml_named("rayjob.yaml")["spec"]
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert container["resources"]["limits"] == container["resources"]["requests"]
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])) == {"working_dir", "env_vars"}


def test_the_entrypoint_of_the_ray_job_is_a_train_command() -> None:
    import argparse

    from tgpo_ray.train import add_train_arguments

    words = shlex.split(yaml_named("rayjob.yaml")["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "tgpo_ray.train"]
    parser = argparse.ArgumentParser()
    add_train_arguments(parser)
    options = parser.parse_args(words[3:])
    assert (options.config, options.resume) == ("train.yaml", "auto")
    assert all("=" in word for word in options.overrides)
