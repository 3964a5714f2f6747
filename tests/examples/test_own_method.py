"""The example method: found by its import path, its loss what it says, its teacher called for failed groups alone."""

from __future__ import annotations

import ast
import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.algorithms.driver_parts import without_actors
from tests.algorithms.oracles import assert_same, random_logits, random_rows, through_autograd, through_kernel
from tests.episodes import group_of_rewards
from tests.paths import EXAMPLES
from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss
from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.episode import SampledGroup
from tgpo_ray.reporting.metrics import read_metrics
from tgpo_ray.teachers import Scoring, TeacherGroup

EXAMPLE = EXAMPLES / "own_method"


class RecordingPool(TeacherGroup):
    """A pool whose teacher has nothing to say."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, set[str]]] = []

    def send(self, batch: Any, group: SampledGroup, want: list[str], tries: int, avoid: Any = None) -> None:
        self.asked.append((group.ordinal, set(want)))
        batch.done.append(group)

    def collect(self, *, wait_s: float) -> None:
        """All have been answered."""

    def check_share(self, counts: Any) -> None:
        """Nobody is missed."""

    def forget(self, batch: Any) -> None:
        """Nothing is open."""


@pytest.fixture
def rescue(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example's module, importable as in a run that starts in its folder."""
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module("rescue")


def test_the_yaml_names_the_method_by_its_import_path(rescue: Any) -> None:
    config: Any = AlgorithmConfig.from_yaml(EXAMPLE / "train.yaml", overrides=["guidance.focus=0.5"])
    assert type(config) is rescue.RescueConfig and config.get_algo_class() is rescue.Rescue
    assert config.problems(files=False) == []
    assert config.guidance.focus == 0.5 and config.guidance.decay == 0.01  # its own key, and an inherited one


def test_a_rule_of_its_own_is_reported_with_the_others(rescue: Any) -> None:
    config = AlgorithmConfig.from_yaml(EXAMPLE / "train.yaml", overrides=["training.loss_aggregation=sequence"])
    assert [problem.split(":")[0] for problem in config.problems(files=False)] == ["training.loss_aggregation"]


def test_the_example_is_less_than_45_lines_of_code() -> None:
    """Of configuration, loss and algorithm: statements, without docstrings, comments and imports."""
    tree = ast.parse((EXAMPLE / "rescue.py").read_text())
    imports = (ast.Import, ast.ImportFrom)
    lines = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and not isinstance(node, imports) and not _is_text(node)
        for line in (node.lineno, *(range(node.lineno, (node.end_lineno or 0) + 1) if not _has_body(node) else ()))
    }
    assert len(lines) < 45


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _has_body(node: ast.stmt) -> bool:
    return hasattr(node, "body")


@pytest.mark.parametrize("focus", [0.0, 1.0, 2.5])
def test_loss_and_gradient_are_the_formulas(rescue: Any, focus: float) -> None:
    rows, logits = random_rows(), random_logits()

    def formula(log_p: Tensor) -> Tensor:
        sampled, teacher = log_p.gather(1, rows.targets).unbind(1)
        assert rows.old_logprobs is not None
        ratio = (sampled - rows.old_logprobs).exp()
        policy = torch.maximum(-rows.advantages * ratio, -rows.advantages * ratio.clamp(0.8, 1.2))
        guidance = (1.0 - teacher.detach().exp()) ** focus * -teacher
        return rows.mask * policy + 0.3 * rows.target_mask[:, 1] * guidance

    loss = rescue.RescueLoss(guidance_weight=0.3, focus=focus)
    assert_same(through_kernel(loss, rows, logits), through_autograd(formula, logits))


def test_at_focus_0_it_is_the_loss_of_tgpo(rescue: Any) -> None:
    rows, logits = random_rows(), random_logits()
    ours = through_kernel(rescue.RescueLoss(guidance_weight=0.3, focus=0.0), rows, logits)
    assert_same(ours, through_kernel(GuidedPolicyLoss(guidance_weight=0.3), rows, logits))


def test_only_failed_groups_reach_the_teacher_and_none_is_lost(rescue: Any) -> None:
    algorithm = without_actors(AlgorithmConfig.from_yaml(EXAMPLE / "train.yaml", ["reporting.token_episodes=0"]))
    teacher = RecordingPool()
    algorithm.teachers = {"default": teacher}
    groups = [
        group_of_rewards(rewards=rewards, ordinal=i) for i, rewards in enumerate([(0, 0), (1, 0), (1, 1), (0, 0)])
    ]
    with Scoring() as scoring:
        for group in groups:
            scoring.submit(group, algorithm.scoring_requests(group))
        found = [*scoring.finished(), *scoring.drain()]
    assert sorted(group.ordinal for group in found) == [0, 1, 2, 3]
    assert teacher.asked == [(0, {"argmax"}), (3, {"argmax"})]


@pytest.mark.slow
def test_the_example_trains_with_real_actors(start_train: Any, tiny_models: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "own_method"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    models = (f"model.path={tiny_models['policy']}", f"teacher.path={tiny_models['teacher']}")
    run = start_train(folder / "train.yaml", *models, "training.num_iterations=2", "reporting.progress=false")
    assert run.wait(280.0) == 0, run.text()
    rows = [row for row in read_metrics(folder / "runs" / "train" / "metrics.jsonl") if "reward" in row]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert [row["guidance/weight"] for row in rows] == pytest.approx([0.1, 0.09])
