"""A run's folder has one writer: contenders, dead holders on this machine and on another, and a holder that is slow."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.paths import ROOT
from tgpo_ray.cluster import Claim, ClaimedError, claims, join, names_in, write_text
from tgpo_ray.cluster.claims import CLAIMS, Holder

HOLD = """
import sys, time
from tgpo_ray.cluster import Claim
claim = Claim(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return f"file://{tmp_path}/run"


@pytest.fixture
def held_elsewhere(folder: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def claim_of(folder: str, holder: Holder, name: str = "other.json", beats: int = 1) -> None:
    write_text(join(folder, CLAIMS, name), json.dumps({"holder": asdict(holder), "beats": beats}))


def test_a_claim_is_exclusive_until_it_is_released(folder: str) -> None:
    claim = Claim(folder)
    assert claim.is_held() and len(names_in(join(folder, CLAIMS))) == 1
    with pytest.raises(ClaimedError, match=r"/run is held by process \d+ on "):
        Claim(folder)
    claim.release()
    claim.release()
    assert names_in(folder) == []
    Claim(folder).release()


def test_of_many_contenders_at_most_one_wins(folder: str) -> None:
    won: list[Claim] = []

    def contend() -> None:
        with contextlib.suppress(ClaimedError):
            won.append(Claim(folder))

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) <= 1
    for claim in won:
        claim.release()
    Claim(folder).release()  # the losers have left nothing


def test_a_killed_process_holds_nothing(folder: str, held_elsewhere: subprocess.Popen[str], capsys) -> None:
    with pytest.raises(ClaimedError, match=f"is held by process {held_elsewhere.pid} on "):
        Claim(folder)
    held_elsewhere.kill()
    held_elsewhere.wait()
    start = time.monotonic()
    Claim(folder).release()
    assert time.monotonic() - start < 1.0  # the kernel knows: nobody waits for a sign of life
    assert f"the claim of process {held_elsewhere.pid} on" in capsys.readouterr().out


def test_a_process_number_that_another_process_has_now_is_no_sign_of_life(folder: str) -> None:
    claim_of(folder, replace(Holder.here(), started="1"))
    Claim(folder).release()


def test_a_claim_of_another_machine_is_watched(folder: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(claims, "SILENT_S", 0.5)
    far = replace(Holder.here(), host="far", machine="another kernel")
    claim_of(folder, far)
    Claim(folder).release()  # it was silent
    said = capsys.readouterr().out
    assert f"has a claim of process {far.pid} on far: waiting" in said and "is a dead run's" in said

    claim_of(folder, far)
    beat = threading.Timer(0.2, claim_of, (folder, far), {"beats": 2})
    beat.start()
    with pytest.raises(ClaimedError, match="on far"):
        monkeypatch.setattr(claims, "TRIES", 1)
        Claim(folder)
    beat.join()


def test_a_claim_gives_signs_of_life_and_notices_its_loss(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.05)
    claim = Claim(folder)
    (name,) = names_in(join(folder, CLAIMS))
    first = claim._read(name)
    end = time.monotonic() + 5.0
    while claim._read(name) == first:
        assert time.monotonic() < end
        time.sleep(0.02)
    claims.delete(join(folder, CLAIMS, name))
    time.sleep(0.2)
    assert not claim.is_held()  # it does not come back
    claim.release()
