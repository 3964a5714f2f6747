"""The public test cases of answer verifiers, through our own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.paths import ROOT
from tgpo_ray.envs import VerifierPool
from tgpo_ray.envs.math_env import MATH_ANSWER


@pytest.fixture(scope="module")
def judged(data_folder) -> list[tuple[dict[str, Any], Any]]:
    rows = [
        json.loads(line) for line in (data_folder / "verifier_cases.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    with VerifierPool(deadline_s=5.0) as pool:
        return [(row, pool.verify(MATH_ANSWER, row["gold"], row["pred"], settings_of(row))) for row in rows]


def settings_of(row: dict[str, Any]) -> dict[str, Any]:
    """The settings that the row's own suite judges it by."""
    settings: dict[str, Any] = {"set_relations": row.get("allow_set_relation_comp", False)}
    if "precision" in row:
        settings["rounding"] = row["precision"]
    tolerance = row.get("precision_abs")
    if tolerance is not None:
        values = [float(value) for value in (tolerance if isinstance(tolerance, list) else [tolerance])]
        settings["tolerance"] = values[0] if len(values) == 1 else values
    return settings


def must_pass(row: dict[str, Any]) -> bool:
    return not row.get("style") and not row.get("quirk") and row["expected"] == row["math_verify_0_9_0"]


def test_every_row_that_must_pass_passes(judged):
    rows = [(row, verdict) for row, verdict in judged if must_pass(row)]
    assert len(rows) == 154
    failed = [(row["gold"], row["pred"], verdict) for row, verdict in rows if (verdict.score == 1.0) != row["expected"]]
    assert failed == []


@pytest.mark.slow
def test_every_row_that_must_pass_passes_without_its_settings_too(data_folder):
    lines = (data_folder / "verifier_cases.jsonl").read_text(encoding="utf-8").splitlines()
    with VerifierPool(deadline_s=5.0) as pool:
        for row in filter(must_pass, map(json.loads, lines)):
            assert (pool.verify(MATH_ANSWER, row["gold"], row["pred"]).score == 1.0) == row["expected"], row


def test_the_known_gaps_are_those_that_the_documentation_lists(judged):
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    gaps = [row for row, verdict in judged if (verdict.score == 1.0) != row["expected"]]
    assert gaps and [row for row in gaps if f"`` {row['gold']} ``" not in page] == []
    table = page.split("### Known gaps")[1].split("\n## ")[0]
    assert table.count("\n| ``") == len(gaps)
