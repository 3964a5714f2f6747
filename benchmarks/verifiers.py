r"""Benchmark: verifications per second with math-verify, as JSON.

    python benchmarks/verifiers.py                            # 1,000 made problems, 2 workers
    python benchmarks/verifiers.py --bad --sandbox            # and with bad verifiers, and the code sandbox

inline          math-verify called in this process: no deadline, no second core, and a hang hangs the trainer
executor        `concurrent.futures.ProcessPoolExecutor`: no deadline either, a crash breaks the whole pool
pool            `tgpo_ray.envs.VerifierPool`: killed and replaced at a deadline

Rounds of all contestants alternate; the median round of each is reported. Requests are submitted at once. Then, with
`--bad`, once more where one request in twenty goes to each of four verifiers that hang 0.5 s, allocate without end,
exit and raise; beside it the ideal: the time of the good ones, hangs and allocations, a start for each lost worker.
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


def ours(pool: VerifierPool, work: list[Request]) -> int:
    return outcomes(pool, [(MATH_ANSWER, *request) for request in work])["correct"]


def outcomes(pool: VerifierPool, calls: list[tuple[str, ...]]) -> Counter[str]:
    futures = [pool.submit(*call, deadline_s=HANG_S if call[0] == BAD[0] else 60.0) for call in calls]
    counts = Counter(future.result().outcome for future in futures)
    assert sum(counts.values()) == len(calls), "a request was lost"
    return counts


def with_bad(work: list[Request], workers: int) -> dict[str, float]:
    """Seconds for `work` with every fifth request replaced by a bad one, and the ideal ones; in a pool of its own."""
    calls = [(BAD[n // 5 % 4],) if n % 5 == 0 else (MATH_ANSWER, *request) for n, request in enumerate(work)]
    good, of_each = [call for call in calls if len(call) > 1], len(calls) // 20
    with VerifierPool(workers, memory_bytes=1 << 30) as pool:
        start_s = seconds(lambda: outcomes(pool, good[:workers]))  # all workers start and import at once
        good_s = seconds(lambda: outcomes(pool, good))
        allocate_s = seconds(lambda: outcomes(pool, [(BAD[1],)]))
        outcomes(pool, good[:workers])  # that worker is replaced
        elapsed = seconds(lambda: outcomes(pool, calls))
    ideal = good_s + of_each * (HANG_S + allocate_s + 3 * start_s) / workers
    figures = {"seconds": elapsed, "ideal_s": ideal, "good_s": good_s, "start_s": start_s, "allocate_s": allocate_s}
    return {name: round(value, 2) for name, value in figures.items()}


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(contestants: dict[str, Callable[[], int]], count: int, rounds: int) -> dict[str, dict[str, float]]:
    for run in contestants.values():  # imports, caches, processes
        run()
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    correct: dict[str, int] = {}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            correct[name] = run()
            taken[name].append(time.perf_counter() - start)
    assert correct["inline"] == correct["executor"] == correct["pool"], f"they disagree: {correct}"
    medians = {name: statistics.median(values) for name, values in taken.items()}
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
    """Processor seconds of the sandboxes that have ended, whose processes their parents have reaped."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="Verifications per second, as JSON.")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bad", action="store_true", help="also with bad verifiers among the good, once")
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
        }
        result = measure(contestants, len(work), settings.rounds)
    report = {
        "settings": vars(settings),
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
        "contestants": result,
        "with_bad": with_bad(work, settings.workers) if settings.bad else None,
        "sandbox": sandboxes(50) if settings.sandbox else None,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
