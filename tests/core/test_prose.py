"""Pages and docstrings avoid turns that a newcomer reads twice. Only code is left out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
PACKAGES = (
    "envs",
    "algorithms",
    "benchmarks",
    "examples",
    "tgpo_ray/checks",
    "tgpo_ray/cli",
    "tgpo_ray/cluster",
    "tgpo_ray/config",
    "tgpo_ray/costs",
    "tgpo_ray/driver",
    "tgpo_ray/env_runners",
    "tgpo_ray/guidance",
    "tgpo_ray/kernels",
    "tgpo_ray/learners",
    "tgpo_ray/models",
    "tgpo_ray/reporting",
    "tgpo_ray/suites",
    "tgpo_ray/teachers",
)
INSTEAD = {
    r"(can|cannot|to) be had": "is available, is not available",
    r"such an? one": "name the thing again",
    r"mend(s|ed|ing)?": "fix",
    r"lies?\b(?! between)": "is, is stored",
    r"what (ends|starts|begins|stands|runs) an?": "the item that ends, starts, runs it",
    r"(where|there|here)(of|in|by|upon)": "of which, in which, by which",
    r"(whilst|hence|henceforth|thus far|ere|oft)": "while, so",
    r"(formerly|no longer|hitherto)": "say what is, not what was",
    r"at hand": "available",
}


def turns(text: str) -> list[str]:
    """Each turn of `INSTEAD` that `text` contains, with what to write."""
    return [
        f"{match.group(0)!r}: write {better!r}"
        for turn, better in INSTEAD.items()
        for match in re.finditer(rf"\b{turn}\b", text, flags=re.IGNORECASE)
    ]


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_is_in_present_day_english(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert turns(prose) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_docstrings_of_a_public_package_are_in_present_day_english(package: str) -> None:
    found = {path.name: turns("\n".join(docstrings(path))) for path in sorted((ROOT / package).rglob("*.py"))}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_turn_is_found_and_its_modern_neighbour_is_not() -> None:
    assert len(turns("Where it cannot be had, such a one lies on disk. Mend it.")) == 4
    assert turns("The point lies between two others. We recommend it, and it can be handled.") == []
