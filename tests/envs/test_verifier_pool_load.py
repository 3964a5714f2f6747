"""A thousand verifications, one in twenty by each of four verifiers that hang, allocate, exit and raise."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tgpo_ray.envs import VerifierPool
from tgpo_ray.envs.math_env import MATH_ANSWER

BAD = f"{Path(__file__).parent / 'misbehaving_verifiers.py'}:"
KINDS = {  # its outcome, what it says, whether it costs a process
    "sleep_forever": ("timeout", "deadline of 0.5 s", True),
    "allocate_without_end": ("error", "MemoryError", True),
    "exit_at_once": ("error", "exit code 7", True),
    "raise_error": ("error", "cannot judge this", False),
}
OF_EACH = 50  # of 1,000
NUM_WORKERS, HANG_S = 2, 0.5


pytestmark = pytest.mark.usefixtures("no_pool_of_others")


def children_that_verify() -> list[str]:
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    mine = [line for line in listed.splitlines() if line.split()[0] == str(os.getpid())]
    return [line for line in mine if "verifiers/worker.py" in line]


def seconds_of(pool: VerifierPool, requests: list[tuple[str, ...]]) -> tuple[float, list]:
    start = time.monotonic()
    hangs = BAD + "sleep_forever"
    futures = [pool.submit(*request, deadline_s=HANG_S if request[0] == hangs else 60.0) for request in requests]
    verdicts = [future.result(timeout=800) for future in futures]
    return time.monotonic() - start, verdicts


def kind_of(number: int) -> str | None:
    """The bad verifier of request `number`, one after another in every fifth; None for a good one."""
    return list(KINDS)[number // 5 % 4] if number % 5 == 0 else None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_verifications_with_five_in_a_hundred_bad_of_each_kind_stay_near_the_ideal_time():
    """Ideal: the good ones at their own speed, 0.5 s for each hang, one start of a worker for each that was lost."""
    requests: list[tuple[str, ...]] = [
        (BAD + kind,) if (kind := kind_of(i)) else (MATH_ANSWER, str(i), f"\\boxed{{{i}}}") for i in range(1000)
    ]
    good = [request for request in requests if request[0] == MATH_ANSWER]
    with VerifierPool(NUM_WORKERS, memory_bytes=2**30) as pool:
        start_s, _ = seconds_of(pool, good[:NUM_WORKERS])  # both workers start and import at once
        good_s, _ = seconds_of(pool, good)
        allocate_s, _ = seconds_of(pool, [(BAD + "allocate_without_end",)])
        seconds_of(pool, good[:NUM_WORKERS])  # that worker is replaced
        elapsed, verdicts = seconds_of(pool, requests)
    lost = OF_EACH * sum(costs for _, _, costs in KINDS.values())
    ideal = good_s + (OF_EACH * (HANG_S + allocate_s) + lost * start_s) / NUM_WORKERS
    print(
        f"1000 verifications, {OF_EACH} bad of each of 4 kinds: {elapsed:.1f} s, ideal {ideal:.1f} s; 800 good alone "
        f"{good_s:.1f} s, a start {start_s:.2f} s, an allocation {allocate_s:.2f} s"
    )
    assert Counter(verdict.outcome for verdict in verdicts) == {"correct": 800, "timeout": 50, "error": 150}
    for number, verdict in enumerate(verdicts):
        kind = kind_of(number)
        outcome, detail, _ = KINDS[kind] if kind else ("correct", "", False)
        assert verdict.outcome == outcome and detail in verdict.detail
    assert pool.restarts == lost + 1  # and the one allocation before
    assert children_that_verify() == []
    assert elapsed < 2 * ideal + 5  # twice: the machine may be busy with other things
