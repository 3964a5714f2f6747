"""The verifier pool: typed outcomes, nothing lost, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.waiting import eventually
from tgpo_ray.envs import VerifierPool, close_shared_pool, shared_pool
from tgpo_ray.envs.math_env import MATH_ANSWER

BAD = f"{Path(__file__).parent / 'misbehaving_verifiers.py'}:"


pytestmark = pytest.mark.usefixtures("no_pool_of_others")


@pytest.fixture
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(1, deadline_s=20.0) as pool:
        yield pool


def workers_of_this_process() -> list[int]:
    """Ids of our children, zombies included, that run the worker's file (Ray's raylet names another worker.py)."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1]) if entry.name.isdigit() else -1
            if parent == os.getpid() and b"verifiers/worker.py" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def is_running(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_a_score_and_its_parts_come_back(pool: VerifierPool):
    verdict = pool.verify(BAD + "multiply", 6, 7, 42)
    assert (verdict.score, verdict.outcome, verdict.extracted) == (1.0, "correct", "42")
    assert verdict.parts == {"accuracy": 1.0}
    assert verdict.seconds is not None and 0 <= verdict.seconds < 5


@pytest.mark.parametrize(
    ("value", "score", "outcome"),
    [
        (True, 1.0, "correct"),
        (0, 0.0, "wrong"),
        (0.5, 0.5, "wrong"),
        ({"score": 0, "outcome": "unparsable"}, 0.0, "unparsable"),
    ],
)
def test_plain_return_values_become_verdicts(pool: VerifierPool, value, score, outcome):
    verdict = pool.verify(BAD + "echo", value)
    assert (verdict.score, verdict.outcome) == (score, outcome)


@pytest.mark.parametrize("hang", ["sleep_forever", "spin_forever", "hold_the_interpreter_lock"])
def test_a_hung_verifier_is_killed_at_its_deadline(pool: VerifierPool, hang):
    before = pool.verify(BAD + "worker_pid").score
    start = time.monotonic()
    verdict = pool.verify(BAD + hang, deadline_s=0.2)
    assert (verdict.score, verdict.outcome) == (0.0, "timeout")
    assert "deadline of 0.2 s" in verdict.detail
    assert time.monotonic() - start < 3
    assert eventually(lambda: not is_running(int(before)))
    assert pool.verify(BAD + "worker_pid").score != before
    assert eventually(lambda: pool.restarts == 1)


def test_a_worker_that_is_killed_from_outside_is_replaced_and_its_request_tried_again(pool: VerifierPool):
    os.kill(int(pool.verify(BAD + "worker_pid").score), signal.SIGKILL)  # idle: the next request finds it dead
    assert pool.verify(BAD + "echo", 0.5).score == 0.5
    victim = int(pool.verify(BAD + "worker_pid").score)
    threading.Timer(0.3, os.kill, (victim, signal.SIGKILL)).start()
    assert pool.verify(BAD + "nap", 1.0).score == 0.25
    assert pool.restarts == 2 and pool.outcomes["error"] == 0


@pytest.mark.parametrize(
    ("verifier", "detail"),
    [
        ("exit_at_once", "exit code 7"),
        ("segfault", "SIGSEGV"),
        ("raise_error", "ValueError: cannot judge this"),
        ("leave_by_exception", "SystemExit: 3"),
        ("forget_to_return", "got NoneType"),
        ("no_such_function", "AttributeError"),
    ],
)
def test_a_crash_is_an_error_with_its_reason_and_no_wrong_answer(pool: VerifierPool, verifier, detail):
    verdict = pool.verify(BAD + verifier)
    assert (verdict.score, verdict.outcome, verdict.failed) == (0.0, "error", True)
    assert detail in verdict.detail
    assert pool.verify(BAD + "echo", 1).outcome == "correct"


def test_memory_without_end_is_an_error():
    with VerifierPool(1, memory_bytes=512 * 2**20) as pool:
        verdict = pool.verify(BAD + "allocate_without_end")
        assert verdict.outcome == "error" and "MemoryError" in verdict.detail
        assert pool.verify(BAD + "echo", 1).outcome == "correct"
    assert pool.restarts == 1  # half of its memory used: the worker was replaced


def test_what_a_verifier_prints_or_reads_does_not_reach_the_protocol(pool: VerifierPool):
    assert pool.verify(BAD + "talk_on_the_protocol").outcome == "correct"


def test_unserialisable_arguments_are_an_error_and_the_worker_lives(pool: VerifierPool):
    before = pool.verify(BAD + "worker_pid").score
    assert "not JSON serializable" in pool.verify(BAD + "echo", object()).detail
    assert pool.verify(BAD + "worker_pid").score == before


def test_any_text_travels(pool: VerifierPool):
    text = "\ud800 \x00 ∑ \U0001d53d " + "x" * 3_000_000
    assert pool.verify(BAD + "echo", {"score": 1.0, "extracted": text}).extracted == text


def test_a_killed_verifier_takes_its_children_along(pool: VerifierPool, tmp_path):
    note = tmp_path / "child"
    assert pool.verify(BAD + "leave_a_child_and_hang", str(note), deadline_s=1.0).outcome == "timeout"
    child = int(note.read_text())
    assert eventually(lambda: not is_running(child))


def test_close_ends_every_process_and_every_request():
    pool = VerifierPool(2, deadline_s=60.0)
    futures = [pool.submit(BAD + "sleep_forever") for _ in range(5)]
    assert eventually(lambda: len(workers_of_this_process()) >= 2)
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 10
    assert {future.result(timeout=1).outcome for future in futures} == {"error"}
    assert workers_of_this_process() == []
    with pytest.raises(RuntimeError, match="pool is closed"):
        pool.verify(BAD + "echo", 1)
    pool.close()


def test_a_worker_survives_the_thread_that_asked_first(pool: VerifierPool):
    pids: list[float] = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: pids.append(pool.verify(BAD + "worker_pid").score))
        thread.start()
        thread.join()
    assert pids[0] == pids[1] == pool.verify(BAD + "worker_pid").score


def test_many_threads_share_a_pool_and_each_gets_its_own_answer():
    with VerifierPool(2) as pool, ThreadPoolExecutor(16) as threads:
        scores = list(threads.map(lambda i: pool.verify(BAD + "echo", i).score, range(200)))
    assert scores == [float(i) for i in range(200)]


def test_async_callers_await_verdicts(pool: VerifierPool):
    async def all_of_them() -> list[float]:
        verdicts = await asyncio.gather(*(pool.verify_async(BAD + "echo", i) for i in range(20)))
        return [verdict.score for verdict in verdicts]

    assert asyncio.run(all_of_them()) == [float(i) for i in range(20)]


def test_hung_and_crashing_verifiers_among_many_lose_no_request():
    kinds = ["sleep_forever", "exit_at_once", "raise_error"]
    with VerifierPool(2) as pool:
        futures = []
        for i in range(200):  # 3 of each bad kind, 191 good
            bad = i % 20 == 0 and i < 180
            name, args = (kinds[i // 20 % 3], ()) if bad else ("multiply", (i, 2, 2 * i))
            futures.append(pool.submit(BAD + name, *args, deadline_s=0.3 if bad else 20.0))
        outcomes = Counter(future.result(timeout=60).outcome for future in futures)
        assert outcomes == {"correct": 191, "timeout": 3, "error": 6} == pool.outcomes
    assert pool.restarts == 6  # a raised exception costs no process
    assert workers_of_this_process() == []


@pytest.mark.parametrize("verifier", ["echo", "note_and_sleep"])
def test_workers_end_when_their_process_is_killed(tmp_path, verifier):
    note = tmp_path / "worker"
    script = textwrap.dedent(f"""
        import time
        from tgpo_ray.envs import shared_pool
        pool = shared_pool()
        if {verifier!r} == "echo":
            open({str(note)!r}, "w").write(str(int(pool.verify({BAD + "worker_pid"!r}).score)))
            time.sleep(60)
        pool.verify({BAD + verifier!r}, {str(note)!r}, deadline_s=60)
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    try:
        assert eventually(lambda: note.exists() and note.read_text() != "", 30)
        worker = int(note.read_text())
        assert is_running(worker)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert eventually(lambda: not is_running(worker), 5)


def test_a_program_that_forgets_to_close_ends_cleanly():
    script = f"from tgpo_ray.envs import shared_pool; print(int(shared_pool().verify({BAD + 'worker_pid'!r}).score))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_running(int(done.stdout))


def test_a_forked_child_gets_a_pool_of_its_own_and_leaves_its_parents_alone():
    script = textwrap.dedent(f"""
        import os
        from tgpo_ray.envs import shared_pool
        pid = lambda: shared_pool().verify({BAD + "worker_pid"!r}).score
        before = pid()
        child = os.fork()
        if child == 0:
            raise SystemExit(int(pid() == before))  # runs the exit handlers
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), pid() == before)
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0", "True"], done.stderr


def test_the_shared_pool_is_one_per_process_and_grows():
    close_shared_pool()
    first = shared_pool(1)
    assert shared_pool(2) is first
    assert first.num_workers == 2
    close_shared_pool()
    assert shared_pool() is not first


def test_a_pool_refuses_to_be_pickled(pool: VerifierPool):
    with pytest.raises(TypeError, match="call shared_pool"):
        pickle.dumps(pool)


def test_a_verifier_that_no_process_can_import_is_refused(pool: VerifierPool):
    with pytest.raises(ValueError, match="module-level function"):
        pool.verify(lambda: 1.0)
    with pytest.raises(ValueError, match="module:function"):
        pool.verify("no_colon")


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="num_workers must be >= 1, got 0"):
        VerifierPool(0)
    with pytest.raises(ValueError, match="deadline_s must be a positive"):
        VerifierPool(1, deadline_s=0)


def test_the_pool_costs_little_beside_the_verification_itself(pool: VerifierPool, record_property):
    pool.verify(MATH_ANSWER, "0", "$0$")  # imports
    start = time.monotonic()
    inside = 0.0
    for i in range(200):
        inside += pool.verify(MATH_ANSWER, str(i), f"so the answer is \\boxed{{{i}}}").seconds or 0.0
    elapsed = time.monotonic() - start
    record_property("verifications_per_second", 200 / elapsed)
    record_property("overhead_ms", 1000 * (elapsed - inside) / 200)
    print(f"{200 / elapsed:.0f} verifications/s, overhead {1000 * (elapsed - inside) / 200:.2f} ms")
    assert elapsed - inside < 2.0  # 10 ms each on a machine that does ten other things; 0.1 ms on a quiet one


def test_the_callers_own_memory_does_not_make_a_worker_look_spent() -> None:
    ballast = bytearray(256 << 20)  # Linux lets a process that we start begin with our peak as its ru_maxrss
    with VerifierPool(memory_bytes=len(ballast)) as pool:
        assert [pool.verify(f"{BAD}echo", 0.5).score for _ in range(3)] == [0.5] * 3
        assert pool.restarts == 0
