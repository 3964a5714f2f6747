"""A thousand verifications, one in twenty of them by a verifier that hangs, allocates, exits or raises."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tgpo_ray.envs import VerifierPool, close_shared_pool
from tgpo_ray.envs.math_env import MATH_ANSWER

BAD = f"{Path(__file__).parent / 'misbehaving_verifiers.py'}:"
KINDS = {  # name, how often among 1,000, its outcome, what it says, whether it costs a process
    "sleep_forever": (13, "timeout", "deadline of 0.5 s", True),
    "allocate_without_end": (13, "error", "MemoryError", True),
    "exit_at_once": (12, "error", "exit code 7", True),
    "raise_error": (12, "error", "cannot judge this", False),
}
NUM_WORKERS, HANG_S = 2, 0.5


@pytest.fixture(autouse=True)
def no_pool_of_others() -> None:
    """Tests before these may have left the shared pool of this process, which lives as long as the process does."""
    close_shared_pool()


def children_that_verify() -> list[str]:
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    mine = [line for line in listed.splitlines() if line.split()[0] == str(os.getpid())]
    return [line for line in mine if "verifiers/worker.py" in line]


def seconds_of(pool: VerifierPool, requests: list[tuple[str, ...]]) -> tuple[float, list]:
    start = time.monotonic()
    hangs = BAD + "sleep_forever"
    futures = [pool.submit(*request, deadline_s=HANG_S if request[0] == hangs else 60.0) for request in requests]
    verdicts = [future.result(timeout=280) for future in futures]
    return time.monotonic() - start, verdicts


@pytest.mark.slow
def test_a_thousand_verifications_with_five_in_a_hundred_bad_stay_near_the_ideal_time():
    """Ideal: the good ones at their own speed, 0.5 s for each hang, one start of a worker for each that was lost."""
    kinds = list(KINDS)
    requests: list[tuple[str, ...]] = [
        (BAD + kinds[i // 20 % 4],) if i % 20 == 0 else (MATH_ANSWER, str(i), f"\\boxed{{{i}}}") for i in range(1000)
    ]
    good = [request for request in requests if request[0] == MATH_ANSWER]
    with VerifierPool(NUM_WORKERS, memory_bytes=2**30) as pool:
        start_s, _ = seconds_of(pool, good[:NUM_WORKERS])  # both workers start and import at once
        good_s, _ = seconds_of(pool, good)
        allocate_s, _ = seconds_of(pool, [(BAD + "allocate_without_end",)])
        elapsed, verdicts = seconds_of(pool, requests)
    lost = sum(count for count, _, _, costs in KINDS.values() if costs)
    ideal = good_s + (13 * HANG_S + 13 * allocate_s + lost * start_s) / NUM_WORKERS
    print(f"1000 verifications, 50 bad: {elapsed:.1f} s, ideal {ideal:.1f} s; a start takes {start_s:.2f} s")
    assert Counter(verdict.outcome for verdict in verdicts) == {"correct": 950, "timeout": 13, "error": 37}
    for number, verdict in enumerate(verdicts):
        if number % 20 == 0:
            _, outcome, detail, _ = KINDS[kinds[number // 20 % 4]]
            assert verdict.outcome == outcome and detail in verdict.detail
    assert pool.restarts == lost + 1  # and the one allocation before
    assert children_that_verify() == []
    assert elapsed < 2 * ideal + 5  # twice: the machine may be busy with other things
