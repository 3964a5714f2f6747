r"""Benchmark: verifications per second with math-verify, as JSON.

    python benchmarks/verifiers.py                            # 1,000 made problems, 2 workers
    python benchmarks/verifiers.py --requests 5000 --sandbox  # and runs of the code sandbox per second

inline          math-verify called in this process: no deadline, no second core, and a hang hangs the trainer
executor        `concurrent.futures.ProcessPoolExecutor`: no deadline either, a crash breaks the whole pool
pool            `tgpo_ray.envs.VerifierPool`: killed and replaced at a deadline
pool_with_bad   the same with one request in twenty by a verifier that hangs 0.5 s, allocates, exits or raises

Rounds of all contestants alternate; the median round of each is reported. Requests are submitted at once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tgpo_ray.envs import VerifierPool
from tgpo_ray.envs.math_env import MATH_ANSWER
from tgpo_ray.envs.sandbox import MECHANISMS, Sandbox, why_not
from tgpo_ray.envs.verifiers import math_answer

MISBEHAVING = Path(__file__).resolve().parents[1] / "tests" / "envs" / "misbehaving_verifiers.py"
BAD = [f"{MISBEHAVING}:{name}" for name in ("sleep_forever", "allocate_without_end", "exit_at_once", "raise_error")]
HANG_S = 0.5
Request = tuple[str, str]


def requests(count: int) -> list[Request]:
    """Gold answers and responses: integers, fractions, roots and tuples, a third of them wrong."""
    shapes = [r"{n}", r"\frac{{{n}}}{{7}}", r"\sqrt{{{n}}}", r"({n}, {m})"]
    made = []
    for n in range(count):
        gold = shapes[n % 4].format(n=n, m=n + 1)
        given = gold if n % 3 else shapes[n % 4].format(n=n + 1, m=n)
        made.append((gold, f"Some steps, {n} of them.\n" * 20 + f"so the answer is \\boxed{{{given}}}."))
    return made


def inline(work: list[Request]) -> int:
    return sum(math_answer.score(gold, text)["score"] == 1.0 for gold, text in work)


def one(request: Request) -> float:
    return math_answer.score(*request)["score"]


def executor(pool: ProcessPoolExecutor, work: list[Request]) -> int:
    return sum(future.result() == 1.0 for future in [pool.submit(one, request) for request in work])


def ours(pool: VerifierPool, work: list[Request], *, bad: bool = False) -> int:
    futures = []
    for number, request in enumerate(work):
        target = BAD[number // 20 % 4] if bad and number % 20 == 0 else MATH_ANSWER
        args = request if target == MATH_ANSWER else ()
        futures.append(pool.submit(target, *args, deadline_s=HANG_S if target == BAD[0] else 60.0))
    outcomes = Counter(future.result().outcome for future in futures)
    assert sum(outcomes.values()) == len(work), "a request was lost"
    return outcomes["correct"]


def measure(contestants: dict[str, Callable[[], int]], count: int, rounds: int) -> dict[str, dict[str, float]]:
    for run in contestants.values():  # imports, caches, processes
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    correct: dict[str, int] = {}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            correct[name] = run()
            seconds[name].append(time.perf_counter() - start)
    assert correct["inline"] == correct["executor"] == correct["pool"], f"they disagree: {correct}"
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {name: {"seconds": round(s, 3), "per_second": round(count / s, 1)} for name, s in medians.items()}


def sandboxes(runs: int) -> dict[str, dict[str, float] | str]:
    """Runs per second and processor time of a small function with three asserts, one at a time, by mechanism."""
    tests = [{"code": f"assert f({n}) == {n * n}"} for n in range(3)]
    result: dict[str, dict[str, float] | str] = {}
    for name in MECHANISMS:
        if why_not(name):
            result[name] = why_not(name)
            continue
        box, each, before = Sandbox(name), [], processor_seconds()
        for _ in range(runs):
            start = time.perf_counter()
            assert box.run("def f(x): return x * x", "f", tests, run_all=False).score == 1.0
            each.append(time.perf_counter() - start)
        result[name] = {
            "median_ms": round(1000 * statistics.median(each), 1),
            "cpu_ms": round(1000 * (processor_seconds() - before) / runs, 1),
            "per_second": round(runs / sum(each), 1),
        }
    return result


def processor_seconds() -> float:
    """Of the sandboxes that have ended: every process of theirs is reaped by its parent."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="Verifications per second, as JSON.")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sandbox", action="store_true", help="the code sandbox too, 50 runs of each mechanism")
    settings = parser.parse_args()
    work = requests(settings.requests)
    context = multiprocessing.get_context("spawn")  # as a trainer with threads must
    with (
        VerifierPool(settings.workers, memory_bytes=1 << 30) as pool,
        ProcessPoolExecutor(settings.workers, mp_context=context) as plain,
    ):
        contestants = {
            "inline": lambda: inline(work),
            "executor": lambda: executor(plain, work),
            "pool": lambda: ours(pool, work),
            "pool_with_bad": lambda: ours(pool, work, bad=True),
        }
        result = measure(contestants, len(work), settings.rounds)
    report = {
        "settings": vars(settings),
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
        "contestants": result,
        "sandbox": sandboxes(50) if settings.sandbox else None,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
