"""What a verifier function does before its deadline runs, and what every worker has in common."""

from __future__ import annotations

from pathlib import Path

from tgpo_ray.envs import VerifierPool

BAD = f"{Path(__file__).parent / 'misbehaving_verifiers.py'}:"


def test_preparation_is_no_verifications_time_and_its_failure_an_error():
    with VerifierPool(deadline_s=0.5) as pool:
        verdict = pool.verify(BAD + "prepared", "answer")
        assert verdict.outcome == "correct" and verdict.seconds is not None and verdict.seconds < 0.5
        broken = pool.verify(BAD + "prepared", "break")
        assert (broken.outcome, broken.detail) == ("error", "ValueError: no such data set")
        assert pool.verify(BAD + "prepared", "answer").outcome == "correct"
    assert pool.restarts == 0


def test_workers_hash_alike_so_that_sets_of_strings_are_walked_alike(monkeypatch):
    found = set()
    for seed in ("random", "7"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        with VerifierPool() as pool:
            found.add(pool.verify(BAD + "hash_of", "abc").score)
    assert len(found) == 1
