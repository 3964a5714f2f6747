"""The sandbox as a runner of tests, under every mechanism that works here: verdicts, data, limits, who may host it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from tests.envs.sandbox_runs import case, needs_linux, run, sandbox_processes
from tests.paths import ROOT
from tgpo_ray.envs.sandbox import MECHANISMS, UNSAFE, Sandbox, SandboxUnavailableError, why_not

pytestmark = needs_linux


def test_right_and_wrong_answers(sandbox):
    right = run(sandbox, "def f(n=0): return n + 1", "assert f() == 1", case(3, 2))
    assert (right.score, right.outcome, right.detail) == (1.0, "correct", "2 of 2 tests passed")
    wrong = run(sandbox, "def f(n=0): return n", "assert f(1) == 1", case(2, 1), run_all=True)
    assert (wrong.score, wrong.outcome, wrong.detail) == (0.5, "wrong", "test 1: 1 is not 2")


@pytest.mark.parametrize(
    ("source", "outcome", "detail"),
    [
        ("def f(: pass", "unparsable", "SyntaxError"),
        ("def f(): return '\x00'", "unparsable", "null bytes"),
        ("raise KeyError('at import')", "wrong", "does not load: KeyError"),
        ("def g(): return 1", "wrong", "does not define 'f'"),
        ("def f(): return 1 / 0", "wrong", "ZeroDivisionError"),
        ("def f(): return f()", "wrong", "RecursionError"),
        ("import ctypes\ndef f(): return ctypes.string_at(0)", "wrong", "was killed by SIGSEGV"),
        ("import numpy\ndef f(): return 1", "wrong", "ModuleNotFoundError"),
    ],
)
def test_a_crash_of_the_candidate_is_its_own_fault(sandbox, source, outcome, detail):
    verdict = run(sandbox, source)
    assert (verdict.score, verdict.outcome) == (0.0, outcome)
    assert detail in verdict.detail


def test_a_test_that_expects_an_exception_does_not_take_an_exit_for_one(sandbox):
    test = "try:\n    f()\nexcept ValueError:\n    pass\nelse:\n    assert False"
    lenient = "try:\n    f()\nexcept Exception:\n    pass"
    assert run(sandbox, "class Mine(ValueError): pass\ndef f(): raise Mine('no')", test).outcome == "correct"
    assert run(sandbox, "def f(): raise KeyError('no')", test).outcome == "wrong"
    assert run(sandbox, "import os\ndef f(): os._exit(0)", lenient).outcome == "wrong"


def test_plain_data_travels_both_ways(sandbox):
    data = "[None, True, 2**70, -1.5, 1e400, 'a\\ud800\\0', (1, [2]), {3}, frozenset({4}), {(1,): 'x'}, b'\\xff', 2j]"
    verdict = run(sandbox, "def f(x): return x", f"data = {data}\nassert f(data) == data and f(data) is not data")
    assert verdict.outcome == "correct", verdict.detail


def test_lists_are_changed_in_place_and_objects_are_used_through_their_methods(sandbox):
    sorts = "def f(numbers): numbers.sort()"
    assert run(sandbox, sorts, "a = [2, 1]\nassert f(a) is None\nassert a == [1, 2]").outcome == "correct"
    stack = """
        class f:
            def __init__(self): self.items = []
            def push(self, item): self.items.append(item)
            def pop(self): return self.items.pop()
            def __len__(self): return len(self.items)
            def __iter__(self): return iter(self.items)
    """
    test = "s = f()\ns.push((1, 2))\ns.push(3)\nassert len(s) == 2 and list(s) == [(1, 2), 3] and s.pop() == 3"
    assert run(sandbox, stack, test).outcome == "correct"


def test_humaneval_tests_and_setup_run(sandbox):
    test = "def check(candidate):\n    assert math.isclose(candidate(2), 2**0.5)"
    verdict = run(sandbox, "def f(x): return x ** 0.5", {"code": test, "calls": ["check"]}, setup="import math")
    assert verdict.outcome == "correct", verdict.detail


def test_a_test_that_cannot_run_is_an_error_and_no_wrong_answer(sandbox):
    verdict = run(sandbox, "def f(g): return g(1)", "assert f(lambda x: x) == 1")
    assert verdict.outcome == "error" and "only plain data" in verdict.detail


def test_many_threads_share_a_sandbox(sandbox):
    outcomes: list[str] = []
    threads = [
        threading.Thread(target=lambda i=i: outcomes.append(run(sandbox, f"def f(): return {i % 2}").outcome))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["correct"] * 4 + ["wrong"] * 4


def test_the_sandbox_dies_with_its_host(sandbox):
    script = textwrap.dedent(f"""
        from tgpo_ray.envs.sandbox import Sandbox
        box = Sandbox({sandbox.mechanism!r}, deadline_s=60.0)
        print("up", flush=True)
        box.run("while True: pass", "f", [{{"code": "f()"}}], run_all=False)
    """)
    host = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    with host.stdout:
        assert host.stdout.readline() == "up\n"
        time.sleep(1.0)
        host.kill()
        host.wait()
    until = time.monotonic() + 10
    while time.monotonic() < until and sandbox_processes(host.pid):
        time.sleep(0.05)
    assert sandbox_processes(host.pid) == []


def test_unsafe_still_has_limits_and_leaves_nothing():
    unsafe = Sandbox(UNSAFE, deadline_s=0.5, memory_bytes=128 << 20)
    assert run(unsafe, "while True: pass").detail == "time limit: the code was killed at its deadline of 0.5 s"
    assert run(unsafe, "def f(): return bytearray(1 << 28) and 1").outcome == "wrong"
    assert run(unsafe, "import os, time\ndef f():\n    os.fork() or time.sleep(99)\n    return 1").outcome == "correct"


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="mechanism must be namespaces"):
        Sandbox("docker")
    with pytest.raises(ValueError, match="deadline_s must be a positive number of seconds, got 0"):
        Sandbox(UNSAFE, deadline_s=0)
    with pytest.raises(ValueError, match="memory_bytes must be >= 67108864"):
        Sandbox(UNSAFE, memory_bytes=1)
    assert issubclass(SandboxUnavailableError, RuntimeError)


def test_the_sandbox_works_for_a_host_that_is_not_root(tmp_path):
    """The trainer as an ordinary user, which maps nobody but itself, with a Python that this user can reach."""
    python = shutil.which("python3", path="/usr/bin") or ""
    version = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if os.geteuid() != 0 or not python or subprocess.run(version).returncode:
        pytest.skip("not root, so every other test shows it, or no Python >= 3.11 in /usr/bin")
    package = Path("/tmp") / f"tgpo-ray-sandbox-test-{os.getpid()}"
    shutil.copytree(ROOT / "envs" / "sandbox", package / "boxed" / "sandbox")
    shutil.copy(ROOT / "envs" / "verdict.py", package / "boxed")
    package.chmod(0o755)
    script = f"""
import sys; sys.path.insert(0, {str(package)!r})
from boxed.sandbox import MECHANISMS, Sandbox, why_not
for name in MECHANISMS:
    tests = [{{"code": "assert f() == 1"}}]
    print(why_not(name) or Sandbox(name).run("def f(): return 1", "f", tests, run_all=False).score)
"""
    try:
        done = subprocess.run(
            [python, "-B", "-c", script],
            user=12345,
            group=12345,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
        )
    finally:
        shutil.rmtree(package)
    as_root = [why_not(name) for name in MECHANISMS]
    assert all(line == "1.0" for line, reason in zip(done.stdout.splitlines(), as_root, strict=True) if not reason), (
        done
    )
