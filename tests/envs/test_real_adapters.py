"""The adapters against the real `verifiers` and `gem`, each in an environment of its own.

Their requirements clash with ours and with each other's, so pip installs them into a throw-away folder:

    python -m pytest tests/envs/test_real_adapters.py -m slow
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("real_libraries.py")
NEEDED = ("lazy-loader", "gymnasium>=1.2.2", "math-verify>=0.9", "numpy>=2")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def in_a_venv(folder: Path, requirement: str, what: str) -> dict[str, Any]:
    """What real_libraries.py prints with `requirement` installed; skips where pip cannot install it."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement, *NEEDED]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install {requirement}: {done.stderr.strip().splitlines()[-1]}")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    played = subprocess.run([python, str(SCRIPT), what], capture_output=True, text=True, env=clean, cwd=folder)
    assert played.returncode == 0, played.stderr[-3000:]
    return json.loads(played.stdout.splitlines()[-1])


QUESTIONS = ["What is 17 + 25?", "What is one half?", "What is 3 * 3?"]  # 42, 1/2, 9
# Responses are `\boxed{42}`, a long one with `\boxed{0.5}`, "" and "\ud800\0"; all but the second are short.
RIGHT = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
SHORT = [1, 0, 1, 1]


def check_scores(found: dict[str, Any], weight: float, metric: dict[str, float], name: str, refused: str) -> None:
    system = {"role": "system", "content": "Box your answer."}
    assert found["problems"] == [[system, {"role": "user", "content": question}] for question in QUESTIONS]
    expected = []
    for row in RIGHT:
        for right, short in zip(row, SHORT, strict=True):
            reward = weight * right + 0.5 * short
            parts = {name: float(right), "short": float(short), "reward": reward, **metric}
            expected.append([reward, "correct" if reward >= 1.0 else "wrong", parts])
    assert found["scores"] == expected
    assert found["hang"] == "timeout"
    assert refused in found["refused"]


def test_a_classic_environment_of_verifiers_scores_as_its_rubric_says(tmp_path):
    found = in_a_venv(tmp_path, "verifiers==0.2.1", "classic")
    check_scores(found, 1.0, {"num_turns": 0.0}, "correct_answer", "takes several turns")


def test_a_taskset_of_verifiers_scores_as_its_tasks_say(tmp_path):
    found = in_a_venv(tmp_path, "verifiers==0.4.0", "tasks")
    check_scores(found, 2.0, {"turns": 1.0}, "correct", "the reward InContainer.passes needs a runtime")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="gem-llm wants Python <= 3.12.0")
def test_a_game_of_gem_is_played_to_its_end_as_gem_plays_it(tmp_path):
    found = in_a_venv(tmp_path, "gem-llm==0.1.0", "gem")
    for (first, turns, outcome), (gem_first, gem_turns) in zip(found["ours"], found["directly"], strict=True):
        assert first == gem_first + "Enter your next guess."  # gem's wrappers show the suffix too
        assert [turn[1:] for turn in turns] == [turn[1:] for turn in gem_turns]
        for turn, gem_turn in zip(turns[:-1], gem_turns[:-1], strict=True):
            assert turn[0] == f"\n{gem_turn[0]}\nEnter your next guess.\n"
        assert (turns[-1][0], turns[-1][1], outcome) == ("", 1.0, "correct")  # bisection of ten in four guesses
    assert len({len(turns) for _, turns, _ in found["ours"]}) > 1  # games of several lengths
    assert found["nonsense"] in ("wrong", "error")
