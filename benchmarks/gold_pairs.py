r"""Benchmark: the gold answers of a data set against every other gold answer of it, as JSON.

    python benchmarks/gold_pairs.py math500.jsonl olympiadbench.jsonl

Each gold answer is a response to each other row whose gold answer is spelled differently. `pairs` lists those that were
taken as equal, for a person to judge; `own` lists rows that do not take their own gold answer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tgpo_ray.envs import VerifierPool
from tgpo_ray.envs.rows import read_rows
from tgpo_ray.envs.verdict import Verdict

AGAINST_ALL = f"{Path(__file__).resolve()}:against_all"
DEADLINE_S = 300.0  # of one gold answer against all


def against_all(gold: str, others: list[str]) -> dict[str, Any]:
    """Which of the boxed `others` count as `gold`."""
    from tgpo_ray.envs.verifiers.math_answer import score

    taken = [other for other in others if score(gold, f"\\boxed{{{other}}}")["score"] == 1.0]
    return {"score": 1.0, "data": taken}


def compared(path: str, workers: int) -> dict[str, Any]:
    answers = [str(row["answer"]).rpartition("#### ")[2].strip() for row in read_rows(path)]
    distinct = list(dict.fromkeys(answers))
    start = time.perf_counter()
    with VerifierPool(workers, deadline_s=DEADLINE_S) as pool:
        futures: list[Future[Verdict]] = [pool.submit(AGAINST_ALL, gold, distinct) for gold in distinct]
        verdicts = [future.result() for future in futures]
    failed = [gold for gold, verdict in zip(distinct, verdicts, strict=True) if verdict.failed]
    taken = {gold: verdict.data or [] for gold, verdict in zip(distinct, verdicts, strict=True)}
    return {
        "rows": len(answers),
        "distinct": len(distinct),
        "compared": len(distinct) * (len(distinct) - 1),
        "own": [gold for gold in distinct if gold not in taken[gold]],
        "failed": failed,
        "pairs": [[gold, other] for gold in distinct for other in taken[gold] if other != gold],
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Gold answers against every other of their set, as JSON.")
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--workers", type=int, default=2)
    settings = parser.parse_args()
    print(json.dumps({path: compared(path, settings.workers) for path in settings.paths}, indent=2))


if __name__ == "__main__":
    main()
