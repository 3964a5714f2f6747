"""The TRL example: guidance in a real GRPOTrainer with tiny random models, in one process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.long  # importing TRL takes ten seconds


@pytest.fixture(scope="module")
def runs(tiny_models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results by case; see trl_plug_cases.py."""
    pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("trl")
    command = [sys.executable, str(Path(__file__).with_name("trl_plug_cases.py"))]
    command += [tiny_models["policy"], tiny_models["teacher"], str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def logged(run: dict[str, Any], name: str) -> list[float]:
    return [row[name] for row in run["log"]]


def test_at_weight_zero_the_loss_is_exactly_trls_and_the_teacher_is_never_asked(runs: dict[str, Any]) -> None:
    plain, zero = runs["grpo"], runs["zero"]
    assert any(norm > 0 for norm in logged(plain, "grad_norm"))  # rewards differ, so there was something to learn
    assert logged(zero, "loss") == logged(plain, "loss")
    assert zero["weights"] == plain["weights"]
    assert zero["teacher_calls"] == 0
    assert not any(name.startswith("guidance/") for row in zero["log"] for name in row)


def test_guidance_is_added_to_the_loss_with_its_weight(runs: dict[str, Any]) -> None:
    # The first step of both runs sees the same completions: same seed, same initial policy.
    added = logged(runs["whole"], "loss")[0] - logged(runs["grpo"], "loss")[0]
    assert added == pytest.approx(0.5 * logged(runs["whole"], "guidance/nll")[0], rel=1e-3)


def test_guidance_makes_the_teachers_tokens_likelier(runs: dict[str, Any]) -> None:
    nll = logged(runs["guided"], "guidance/nll")
    assert sum(nll[-3:]) / 3 < nll[0] - 0.3  # of completions that differ from step to step


def test_accumulating_gradients_changes_nothing(runs: dict[str, Any]) -> None:
    """Z counts the tokens of the optimizer step, however they are split."""
    assert runs["accumulated"]["weights"] == pytest.approx(runs["whole"]["weights"], rel=1e-6)
    assert runs["whole"]["weights"] != pytest.approx(runs["zero"]["weights"], rel=1e-6)


def test_the_weight_follows_the_optimizer_step_and_the_teacher_rests_when_it_is_zero(runs: dict[str, Any]) -> None:
    # 0.5 - 0.25 t: two guided steps of four, and one prefill of the teacher for each
    assert [row.get("guidance/weight") for row in runs["annealed"]["log"]] == [0.5, 0.25, None, None]
    assert runs["annealed"]["teacher_calls"] == 2
