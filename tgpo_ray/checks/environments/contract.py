"""Checks of the environment's contract: gymnasium's own checks, determinism, and pickling for an actor."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tgpo_ray.checks.results import MAX_SHOWN, CheckResult, Finding, judged, shortened, skipped
from tgpo_ray.episode import OUTCOMES

from .playing import Subject, transcript

if TYPE_CHECKING:
    from gymnasium import Env

PlayedEpisode = tuple[int, Sequence[str]]  # the problem, and the responses to it

NUM_COMPARED = 10  # problems that are played in several instances
PROCESS_TIMEOUT_S = 120.0
FIXED_RESPONSES = ("A first answer: \\boxed{1}", "A second one: 2", "A third.")


def check_api(subject: Subject) -> CheckResult:
    """Returns the result of gymnasium's `check_env`: spaces, signatures, determinism of a seed, fresh objects."""
    from gymnasium.utils.env_checker import check_env

    bound, fix = "no exception", "fix what gymnasium says; TextEnv and SingleTurnEnv do all of it"
    env = subject.make()
    try:
        with warnings.catch_warnings(record=True) as records:
            warnings.simplefilter("always")
            check_env(env.unwrapped)
    except Exception as error:  # assertions of the checker, or any error of the environment
        return CheckResult("check_env", "failed", type(error).__name__, bound, fix, (Finding(None, str(error)),))
    finally:
        env.close()
    findings = tuple(Finding(None, f"warning: {warning.message}") for warning in records)
    return CheckResult("check_env", "ok", f"{len(findings)} warnings" if findings else "passes", bound, fix, findings)


def check_info(subject: Subject) -> CheckResult:
    """Returns whether observations are text, and the last info has an outcome and named parts of the reward."""
    findings = []
    for index in subject.indices[:MAX_SHOWN]:
        played = subject.play(index, FIXED_RESPONSES)
        findings += [
            Finding(index, problem) for problem in _info_problems(played.prompt, played.info, done=played.done)
        ]
    return judged(
        "info",
        findings,
        measured=f"{min(MAX_SHOWN, len(subject.indices))} episodes",
        bound="text, outcome, reward_parts",
        fix="return the info that TextEnv's docstring lists",
    )


def _info_problems(prompt: object, info: Mapping[str, Any], *, done: bool) -> Iterable[str]:
    if not isinstance(prompt, str):
        yield f"reset returned a {type(prompt).__name__}, not a text"
    if not done:
        return
    if "outcome" in info and info["outcome"] not in OUTCOMES:
        yield f"info['outcome'] is {info['outcome']!r}, not one of {', '.join(OUTCOMES)}"
    parts = info.get("reward_parts", {})
    if not isinstance(parts, dict) or not all(isinstance(part, int | float) for part in parts.values()):
        yield f"info['reward_parts'] is {shortened(parts)}, not numbers by name"


def check_determinism(subject: Subject) -> CheckResult:
    """Returns whether the same seed and index give the same episode in another instance, order and process."""
    episodes = [(index, subject.gold(index) or FIXED_RESPONSES) for index in subject.indices[:NUM_COMPARED]]
    first = _transcripts(subject.make(), episodes, subject.seed)
    backwards = _transcripts(subject.make(), episodes[::-1], subject.seed)[::-1]
    findings = _differences(episodes, first, backwards, "a second instance, played in another order")
    measured = f"{len(episodes)} episodes, 2 instances"
    try:
        findings += _differences(episodes, first, _elsewhere(subject, episodes), "another process")
        measured += ", 2 processes"
    except (TypeError, subprocess.SubprocessError) as error:  # TypeError: arguments that JSON has no type for
        findings += [] if isinstance(error, TypeError) else [Finding(None, _last_line(error))]
    return judged(
        "determinism",
        findings,
        measured=measured,
        bound="equal transcripts",
        fix="draw only from self.np_random (hash() of a text differs between processes, sets have no order), keep no "
        "state from one episode to the next, return durations as tgpo_ray.envs.Seconds",
    )


def _transcripts(env: Env[str, str], episodes: Iterable[PlayedEpisode], seed: int) -> list[str]:
    try:
        return [transcript(env, index, seed, responses) for index, responses in episodes]
    finally:
        env.close()


def _differences(episodes: Iterable[PlayedEpisode], first: list[str], other: list[str], where: str) -> list[Finding]:
    differences = []
    for (index, _), a, b in zip(episodes, first, other, strict=True):
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            start = max(0, at - 20)
            differences.append(Finding(index, f"{where}: {a[start : at + 30]!r} became {b[start : at + 30]!r}"))
    return differences


def _elsewhere(subject: Subject, episodes: Sequence[PlayedEpisode]) -> list[str]:
    job = {"id": subject.id, "kwargs": subject.kwargs, "seed": subject.seed, "episodes": episodes}
    # another hash seed changes the order of sets, which shows an environment that depends on it
    hash_seed = "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-m", "tgpo_ray.checks.environments.second_process"],
        input=json.dumps(job),
        env=environment,
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT_S,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _last_line(error: subprocess.SubprocessError) -> str:
    text = (getattr(error, "stderr", None) or str(error)).strip()
    return f"another process failed: {text.splitlines()[-1]}"


def check_pickling(subject: Subject) -> CheckResult:
    """Returns whether the id and the arguments, which an actor receives, give the same episode after pickling."""
    bound = "the spec gives the same episode"
    if not subject.indices:
        return skipped("pickling", "no problem to play", bound)
    index = subject.indices[0]
    episode = [(index, subject.gold(index) or FIXED_RESPONSES)]
    expected = _transcripts(subject.make(), episode, subject.seed)
    findings, how = [], "environment and spec"
    try:
        copy = pickle.loads(pickle.dumps(subject.env.unwrapped))
        findings += _differences(
            episode, expected, _transcripts(copy, episode, subject.seed), "the pickled environment"
        )
    except Exception as error:  # pickle raises what the objects inside raise
        how = f"spec alone ({type(error).__name__} on the environment)"
    try:
        identity, kwargs = pickle.loads(pickle.dumps((subject.id, subject.kwargs)))
        remade = Subject(identity, kwargs).make()
        findings += _differences(episode, expected, _transcripts(remade, episode, subject.seed), "made from its spec")
    except Exception as error:
        findings.append(Finding(None, f"id and arguments: {type(error).__name__}: {error}"))
    fix = "take plain values as arguments, open files and start processes when they are first needed"
    return judged("pickling", findings, measured=how, bound=bound, fix=fix)
