"""The bare PyTorch example: guidance in a loop of one's own, with tiny models."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.paths import EXAMPLES, ROOT

FOLDER = EXAMPLES / "pytorch"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example's main script as a module; its folder is on the path as when it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    modules = ("train", "tiny_models")
    before: dict[str, Any] = {name: sys.modules.pop(name) for name in modules if name in sys.modules}
    yield importlib.import_module("train")
    for name in modules:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def test_guidance_makes_the_teachers_tokens_likelier_and_reward_alone_does_not(
    example: Any, tiny_models: dict[str, str]
) -> None:
    """Random models: no reward is ever earned, so whatever is learned comes from the teacher."""
    example.LR = 3e-3
    alone, guided = (example.train(tiny_models, weight, iterations=10, seed=0) for weight in (0.0, 1.0))
    assert alone[0]["guidance_nll"] == guided[0]["guidance_nll"]  # the same seed, and no update yet
    assert guided[-1]["guidance_nll"] < guided[0]["guidance_nll"] - 0.2
    assert guided[-1]["guidance_nll"] < alone[-1]["guidance_nll"] - 0.2


def test_the_weight_falls_to_zero_at_two_thirds_of_the_run(example: Any, tiny_models: dict[str, str]) -> None:
    rows = example.train(tiny_models, 1.0, iterations=3, seed=0)
    # 1 - 1.5 t / 3 at t = 0, 1, 2
    assert [row["weight"] for row in rows] == pytest.approx([1.0, 0.5, 0.0])


def test_the_teachers_tokens_are_those_it_would_write_next(example: Any, tiny_models: dict[str, str]) -> None:
    """Aligned: the token for position t is the teacher's best after the prompt and the response before t."""
    from transformers import AutoModelForCausalLM

    teacher: Any = AutoModelForCausalLM.from_pretrained(tiny_models["teacher"])
    ids = torch.randint(2, 16, (2, 9), generator=torch.Generator().manual_seed(0))
    teacher_ids = example.teacher_argmax(teacher, ids, num_response=4)
    with torch.no_grad():
        one_by_one = [teacher(ids[:, :t]).logits[:, -1].argmax(-1) for t in range(5, 9)]
    assert teacher_ids.tolist() == torch.stack(one_by_one, 1).tolist()


@pytest.mark.slow
def test_the_documented_command_shows_that_guidance_learns_faster() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / "train.py")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    alone, guided = done.stdout.split("GRPO alone")[1].split("GRPO with guidance")

    def column(text: str, name: str) -> list[float]:
        return [float(value) for value in re.findall(rf"{name} ([\d.]+)", text)]

    assert len(column(alone, "reward")) == len(column(guided, "reward")) == 8
    # Iterations 5 to 19, while the weight is high: ahead in both. Later both arrive at the same place.
    for name, sign in (("reward", 1), ("guidance_nll", -1)):
        assert sign * sum(column(guided, name)[1:4]) > sign * sum(column(alone, name)[1:4])
    assert column(guided, "reward")[-1] > column(guided, "reward")[0]
