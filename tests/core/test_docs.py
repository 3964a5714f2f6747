"""The pages say what is so: links lead somewhere, the reference is the models', the quick start's blocks are valid."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import yaml
from docs.rooms import GUESTS, ROOT, rooms

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_to_files_of_the_tree(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(
    "script",
    ["generate_configuration.py", "generate_metrics.py", "generate_cost_model.py", "generate_gpu.py", "draw_rooms.py"],
)
def test_what_a_script_writes_into_the_docs_is_up_to_date(script: str) -> None:
    command = [sys.executable, f"docs/{script}", "--check"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def resolve(dotted: str) -> object:
    """The object that `driver.Algorithm.train` names: a name at a room's door, or a module inside the room."""
    found: object = importlib.import_module(f"tgpo_ray.{dotted.partition('.')[0]}")
    for name in dotted.split(".")[1:]:
        if not hasattr(found, name) and isinstance(found, ModuleType):
            importlib.import_module(f"{found.__name__}.{name}")
        found = getattr(found, name)
    return found


def is_key(dotted: str) -> bool:
    """Whether it names a key of a run's YAML: sections and rooms share some names."""
    from tgpo_ray.algorithms import TGPOConfig

    section, _, key = dotted.partition(".")
    field = TGPOConfig.model_fields.get(section)
    return field is not None and key in getattr(field.annotation, "model_fields", {})


def test_every_function_on_the_page_about_the_architecture_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(rf"`((?:{'|'.join([*rooms(), *GUESTS])})(?:\.\w+)+)`", page)
    named = [name for name in named if not name.endswith((".py", ".md")) and not is_key(name)]
    assert len(named) > 20
    for name in named:
        resolve(name)


def test_the_site_has_every_page_in_its_navigation() -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]

    def targets(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        assert isinstance(entry, dict | list)
        return [target for inner in (entry.values() if isinstance(entry, dict) else entry) for target in targets(inner)]

    assert sorted(targets(navigation)) == sorted(pages)


def test_the_quick_starts_yaml_is_a_valid_run(tmp_path: Path) -> None:
    from tgpo_ray.config import AlgorithmConfig

    (text,) = blocks(ROOT / "README.md", "yaml")
    path = tmp_path / "my_run.yaml"
    path.write_text(text)
    config = AlgorithmConfig.from_yaml(path, overrides=["training.lr=5e-7"])
    assert config.algorithm == "TGPO"
    assert config.training.lr == 5e-7


def test_the_quick_starts_environment_gives_and_judges_problems(tmp_path: Path) -> None:
    import gymnasium

    (text,) = [block for block in blocks(ROOT / "README.md", "python") if "SingleTurnEnv" in block]
    namespace: dict[str, object] = {}
    try:
        exec(compile(text, "README.md", "exec"), namespace)
        env = gymnasium.make("Reverse-v0", disable_env_checker=True)
        prompt, _ = env.reset(seed=0, options={"index": 0})
        word = prompt.split()[1]
        assert env.step(word[::-1])[1] == 1.0
        assert env.reset(seed=0, options={"index": 0})[0] == prompt
        assert env.step("no")[1] == 0.0
    finally:
        gymnasium.registry.pop("Reverse-v0", None)


def test_the_quick_starts_guidance_loss_is_a_cross_entropy_when_the_policy_has_no_loss_of_its_own() -> None:
    import torch

    (text,) = [block for block in blocks(ROOT / "README.md", "python") if "guidance_loss" in block]
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    teacher_ids = torch.tensor([[0, 1, 2], [3, 4, 0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    namespace = {"logits": logits, "teacher_ids": teacher_ids, "mask": mask, "policy_loss": 0.0, "step": 100}
    exec(compile(text, "README.md", "exec"), namespace)
    kept = mask.bool()
    # w_100 = 2e-3 - 100 * 1e-5 = 1e-3
    expected = 1e-3 * torch.nn.functional.cross_entropy(logits[kept], teacher_ids[kept])
    torch.testing.assert_close(namespace["loss"], expected)
