"""docs/algorithms.md has a section for each method, and the YAML of a section selects its method."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tgpo_ray import algorithms
from tgpo_ray.config import AlgorithmConfig

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", PAGE, flags=re.DOTALL | re.MULTILINE))
TAUGHT = set(re.findall(r"^\| \[`(\w+)`\].*\| yes \|$", PAGE, flags=re.MULTILINE))
BLOCKS = [(name, text) for name in SECTIONS for text in re.findall(r"```yaml\n(.*?)```", SECTIONS[name], re.DOTALL)]


def test_each_method_has_a_section_with_source_difference_file_presets_and_yaml() -> None:
    methods = {name for name in dir(algorithms) if f"{name}Config" in dir(algorithms)}
    assert set(SECTIONS) == methods == {name for name, _ in BLOCKS}
    presets = {path.stem for path in (ROOT / "yaml" / "paper").rglob("*.yaml")}
    for name, section in SECTIONS.items():
        assert all(f"**{part}:**" in section for part in ("Source", "Where we differ", "Code", "Presets")), name
        for line in re.findall(r"\*\*Presets:\*\* ([^.]*)\.", section):
            assert set(re.findall(r"`(\w+)`", line)) <= presets, name


def test_each_preset_is_named_on_the_page() -> None:
    named = set(re.findall(r"`(?:[\d.b]+/)?(\w+)`", PAGE))
    assert {path.stem for path in (ROOT / "yaml" / "paper").rglob("*.yaml")} - named == set()


@pytest.mark.parametrize(("name", "text"), BLOCKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BLOCKS)])
def test_the_yaml_of_a_section_is_a_valid_run_of_its_method(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    overrides = ["model={path: policy}"]
    if name != "SFT":
        overrides.append("envs=[{id: tgpo/Arithmetic-v0}]")
    if name in TAUGHT:
        overrides.append("teacher={path: teacher}")
    config = AlgorithmConfig.from_yaml(path, overrides).check(files=False)
    assert config.algorithm == name
