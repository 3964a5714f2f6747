"""What a hostile candidate does to the machine, under every mechanism that works here. All of it bounded."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from tests.envs.sandbox_runs import case, needs_linux, run, sandbox_processes
from tests.paths import ROOT
from tgpo_ray.envs.sandbox import Sandbox

pytestmark = needs_linux


@pytest.mark.parametrize(
    "source",
    [
        "while True: pass",
        "def f():\n    while True: pass",
        "import time\ndef f(): time.sleep(1000)",
        "def f(): return sum(range(10**18))",
        "import signal\ndef f():\n    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n    while True: pass",
        "def f():\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
    ],
)
def test_what_does_not_end_is_killed_at_the_deadline(sandbox, source):
    start = time.monotonic()
    verdict = run(Sandbox(sandbox.mechanism, deadline_s=0.5), source)
    assert (verdict.score, verdict.outcome, verdict.parts) == (0.0, "wrong", {"in_time": 0.0})
    assert verdict.detail == "time limit: the code was killed at its deadline of 0.5 s"
    assert time.monotonic() - start < 10


def test_an_endless_iterator_of_the_candidates_is_killed_at_the_deadline(sandbox):
    source = "import itertools\ndef f(): return itertools.count()"
    assert run(Sandbox(sandbox.mechanism, deadline_s=0.5), source, "sum(f())").parts == {"in_time": 0.0}


def test_a_fork_bomb_is_contained(sandbox):
    source = """
        import os
        def f():
            for _ in range(200):
                os.fork()
            return 1
    """
    verdict = run(Sandbox(sandbox.mechanism, deadline_s=2.0), source)
    assert (verdict.score, verdict.outcome) == (0.0, "wrong")


def test_children_that_stay_behind_die_with_the_sandbox(sandbox):
    source = """
        import os, time
        def f():
            try:
                if os.fork() == 0:
                    os.setsid()
                    time.sleep(1000)
            except PermissionError:
                pass
            return 1
    """
    assert run(sandbox, source).outcome == "correct"
    assert sandbox_processes() == []


def test_a_thread_bomb_is_contained(sandbox):
    source = """
        import threading, time
        threading.stack_size(65536)
        def f():
            for number in range(200):
                threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
            return 1
    """
    assert "can't start new thread" in run(sandbox, source).detail


@pytest.mark.parametrize("grow", ["blocks.append(bytearray(1 << 24))", "blocks.append(mmap.mmap(-1, 1 << 24))"])
def test_a_memory_bomb_ends_at_its_limit(sandbox, grow):
    source = f"import mmap\ndef f():\n    blocks = []\n    for _ in range(20):\n        {grow}\n    return 1"  # 320 MB
    assert run(Sandbox(sandbox.mechanism, memory_bytes=128 << 20), source).outcome == "wrong"
    assert run(sandbox, source).outcome == "correct"


def test_no_file_is_written_anywhere(sandbox, tmp_path):
    tmp_path.chmod(0o777)
    source = """
        import os
        def f(folders):
            done = []
            for folder in folders:
                for act in (lambda p: open(p, "w"), os.mkdir, lambda p: os.symlink("/", p), os.mkfifo):
                    try:
                        act(folder + "/made_by_the_candidate")
                        done.append(folder)
                    except OSError:
                        pass
            return done
    """
    folders = [str(tmp_path), "/tmp", "/dev/shm", "/", "/var/tmp", str(ROOT), "."]
    assert run(sandbox, source, case([], folders)).outcome == "correct"
    assert list(tmp_path.iterdir()) == []


def test_no_file_outside_is_changed(sandbox, tmp_path):
    tmp_path.chmod(0o777)
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    victim.chmod(0o666)
    before = victim.stat()
    source = """
        import os
        def f(path):
            acts = [
                lambda: open(path, "a"), lambda: os.open(path, os.O_RDONLY | os.O_TRUNC), lambda: os.truncate(path, 0),
                lambda: os.chmod(path, 0), lambda: os.utime(path, (0, 0)), lambda: os.unlink(path),
                lambda: os.rename(path, path + "2"), lambda: os.link(path, path + "3"), lambda: os.chown(path, 1, 1),
                lambda: os.setxattr(path, "user.a", b"b"),
            ]
            done = []
            for number, act in enumerate(acts):
                try:
                    act()
                    done.append(number)
                except OSError:
                    pass
            return done
    """
    assert run(sandbox, source, case([], str(victim))).outcome == "correct"
    after = victim.stat()
    assert victim.read_text() == "as it was" and list(tmp_path.iterdir()) == [victim]
    assert (after.st_mode, after.st_mtime_ns, after.st_uid) == (before.st_mode, before.st_mtime_ns, before.st_uid)


def test_no_file_outside_is_read(sandbox, tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "secret").write_text("a key")
    source = """
        import os
        def f(paths):
            read = []
            for path in paths:
                try:
                    os.read(os.open(path, os.O_RDONLY), 1)
                    read.append(path)
                except OSError:
                    pass
            return read
    """
    parent = os.getpid()
    paths = ["/etc/shadow", "/etc/passwd", f"/proc/{parent}/environ", f"/proc/{parent}/mem", f"/proc/{parent}/maps"]
    paths += ["/proc/1/environ", "/proc/self/environ", "/proc/self/mem", str(tmp_path / "secret"), __file__, "/dev/vda"]
    assert run(sandbox, source, case([], paths)).outcome == "correct"


def test_environment_variables_of_the_trainer_stay_outside(sandbox, monkeypatch):
    monkeypatch.setenv("SERVICE_API_KEY", "hidden")
    source = "import os\ndef f(): return 'SERVICE_API_KEY' in os.environ"
    assert run(sandbox, source, case(False)).outcome == "correct"


def test_no_socket_reaches_anybody(sandbox):
    source = """
        import socket
        def f(port, name):
            done = []
            for kind, family, address in (
                (socket.SOCK_STREAM, socket.AF_INET, ("127.0.0.1", port)),
                (socket.SOCK_DGRAM, socket.AF_INET, ("127.0.0.1", port)),
                (socket.SOCK_STREAM, socket.AF_INET6, ("::1", port)),
                (socket.SOCK_STREAM, socket.AF_UNIX, name),
            ):
                try:
                    socket.socket(family, kind).connect(address)
                    done.append(str(address))
                except OSError:
                    pass
            return [name for name in done if "127" not in name] + done
    """
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        name = f"\0tgpo-ray-test-{os.getpid()}"
        local.bind(name)
        local.listen()
        verdict = run(sandbox, source, case([], server.getsockname()[1], name))
        server.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert verdict.outcome == "correct", verdict.detail


def test_nobody_is_killed_or_traced(sandbox):
    witness = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    source = """
        import ctypes, fcntl, os, resource, signal
        libc = ctypes.CDLL(None)
        def f(pids):
            for pid in [os.getppid(), *pids]:
                for number in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
                    try:
                        os.kill(pid, number)
                    except OSError:
                        pass
                for act in (
                    lambda: os.killpg(pid, signal.SIGKILL),
                    lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL),
                    lambda: fcntl.fcntl(3, fcntl.F_SETOWN, pid) or fcntl.fcntl(3, 10, signal.SIGKILL),
                ):
                    try:
                        act()
                    except OSError:
                        pass
            return [libc.ptrace(16, pid, 0, 0) for pid in pids]
    """
    try:
        pids = [os.getpid(), witness.pid]
        verdict = run(sandbox, source, case([-1, -1], pids))
        assert verdict.outcome == "correct", verdict.detail
        assert witness.poll() is None
    finally:
        witness.kill()
        witness.wait()


def test_no_program_is_started(sandbox):
    source = """
        import os, subprocess, sys
        def f(program):
            try:
                subprocess.run([program, "-c", "print(1)"], check=True)
            except OSError:
                return 1
            return 0
    """
    assert run(sandbox, source, case(1, "/bin/sh"), case(1, sys.executable)).outcome == "correct"


def test_a_flood_of_output_is_dropped_and_a_flood_of_a_value_is_wrong(sandbox):
    flood = "import sys\ndef f():\n    for _ in range(200):\n        print('x' * 10**6)\n    return 1"
    assert run(sandbox, flood).outcome == "correct"
    verdict = run(sandbox, "def f(): return 'x' * 5_000_000")
    assert verdict.outcome == "wrong" and "over the limit of 1,048,576" in verdict.detail
