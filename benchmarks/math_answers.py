r"""Benchmark: verifications a second of the mathematics verifier, of this tree and of another, interleaved, as JSON.

    python benchmarks/math_answers.py                                # this tree alone
    git worktree add /tmp/before main
    python benchmarks/math_answers.py --other /tmp/before            # and another, in one run
    python benchmarks/math_answers.py --data math500.jsonl           # gold answers of a file, right and wrong

Rounds of both alternate, and the median round of each is reported. Each round has a new pool of one worker, which
imports that tree's code and judges other requests first, so no cache has seen a round's answers. Made problems are
those of `benchmarks/verifiers.py`: integers, fractions, roots and tuples.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.verifiers import requests
from tgpo_ray.envs import VerifierPool
from tgpo_ray.envs.rows import read_rows

ROOT = Path(__file__).resolve().parents[1]
WARM = 100  # requests before the clock starts
STEPS = "Some steps, {n} of them.\n" * 20


def verifier_of(tree: Path) -> str:
    """Where the tree has `score`."""
    folder = tree / "envs" / "verifiers" / "math_answer" / "__init__.py"
    return f"{folder if folder.is_file() else tree / 'envs' / 'verifiers' / 'math_answer.py'}:score"


def of_file(path: str) -> list[tuple[str, str]]:
    """Each gold answer with a response that gives it, and with one that gives the next row's."""
    answers = [str(row["answer"]).rpartition("#### ")[2].strip() for row in read_rows(path)]
    given = [answer if n % 2 else answers[(n + 1) % len(answers)] for n, answer in enumerate(answers)]
    return [
        (gold, STEPS.format(n=n) + f"so it is \\boxed{{{text}}}.")
        for n, (gold, text) in enumerate(zip(answers, given, strict=True))
    ]


def seconds(pool: VerifierPool, target: str, work: list[tuple[str, str]]) -> tuple[float, int]:
    start = time.perf_counter()
    futures = [pool.submit(target, gold, text) for gold, text in work]
    correct = sum(future.result().score == 1.0 for future in futures)
    return time.perf_counter() - start, correct


def measured(trees: dict[str, str], work: list[tuple[str, str]], rounds: int) -> dict[str, Any]:
    """Median seconds and verifications a second of each tree."""
    taken: dict[str, list[float]] = {name: [] for name in trees}
    correct: dict[str, int] = {}
    for _ in range(rounds):
        for name, target in trees.items():
            with VerifierPool(1, deadline_s=60.0) as pool:
                seconds(pool, target, requests(WARM + len(work))[-WARM:])  # imports and the parser's tables
                spent, correct[name] = seconds(pool, target, work)
            taken[name].append(spent)
    return {
        name: {
            "seconds": round(statistics.median(values), 3),
            "per_second": round(len(work) / statistics.median(values), 1),
            "correct": correct[name],
        }
        for name, values in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Verifications a second, as JSON.")
    parser.add_argument("--other", type=Path, help="the root of another tree to compare with")
    parser.add_argument("--data", help="a file of rows instead of the made problems")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    settings = parser.parse_args()
    trees = {"this": verifier_of(ROOT)} | ({"other": verifier_of(settings.other)} if settings.other else {})
    work = of_file(settings.data) if settings.data else requests(settings.requests)
    report = {
        "settings": {name: str(value) for name, value in vars(settings).items()},
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
        "requests": len(work),
        "trees": measured(trees, work, settings.rounds),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
