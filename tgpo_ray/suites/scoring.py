"""Verdicts of environments in this process: for served models, and for answers that were sampled before."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from tgpo_ray.episode import OUTCOMES
from tgpo_ray.suites.answers_file import Answer, ProblemAnswers
from tgpo_ray.suites.fingerprints import prompt_hash

if TYPE_CHECKING:
    from gymnasium import Env

    from tgpo_ray.env_runners import EnvSpec
    from tgpo_ray.suites.work import EvaluationSet


class ScoredText(NamedTuple):
    """What an environment says of one response."""

    reward: float
    outcome: str
    answer: str | None


class EnvPool:
    """Environments of one kind, as many as threads use at a time."""

    def __init__(self, spec: EnvSpec) -> None:
        self._spec = spec
        self._idle: SimpleQueue[Env[str, str]] = SimpleQueue()

    @contextmanager
    def env(self) -> Iterator[Env[str, str]]:
        """Yields an environment that no other thread has."""
        try:
            env = self._idle.get_nowait()
        except Empty:
            env = self._spec.make()
        yield env
        self._idle.put(env)  # one whose step has raised is not used again

    def close(self) -> None:
        """Close the idle environments."""
        while not self._idle.empty():
            self._idle.get().close()


def verdict_of(env: Env[str, str], text: str, where: str) -> ScoredText:
    """Returns the verdict on a response to the problem to which `env` was reset.

    Raises:
        ValueError: the environment goes on after one response.
    """
    _, score, terminated, truncated, info = env.step(text)
    reward = float(score)
    if not (terminated or truncated):
        raise ValueError(
            f"{where}: the environment goes on after one response, and only runners play several turns: name a folder "
            "or an id of a model, and sample again in place of --rescore"
        )
    outcome = str(info.get("outcome", "correct" if reward > 0 else "wrong"))
    if outcome not in OUTCOMES:
        raise ValueError(f"{where}: info['outcome'] must be one of {', '.join(OUTCOMES)}, got {outcome!r}")
    answer = info.get("answer")
    return ScoredText(reward, outcome, None if answer is None else str(answer))


def rescored(
    evaluated: EvaluationSet, rows: Iterable[ProblemAnswers], num_threads: int | None = None
) -> Iterator[ProblemAnswers]:
    """Yields the rows, in their order, with the verdicts that the set's environment gives now.

    Raises:
        ValueError: a row answers another prompt than the environment's now, or the environment has several turns.
    """
    pool = EnvPool(evaluated.spec)
    workers = num_threads or os.cpu_count() or 1
    threads = ThreadPoolExecutor(workers, thread_name_prefix="scoring")

    def of(row: ProblemAnswers) -> ProblemAnswers:
        with pool.env() as env:
            return replace(row, answers=tuple(_answer(env, evaluated, row, answer) for answer in row.answers))

    ahead: deque[Future[ProblemAnswers]] = deque()  # a file may be larger than memory
    try:
        for row in rows:
            ahead.append(threads.submit(of, row))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
        pool.close()


def _answer(env: Env[str, str], evaluated: EvaluationSet, row: ProblemAnswers, answer: Answer) -> Answer:
    where = f"{evaluated.label}, problem {row.problem}"
    try:
        prompt, info = env.reset(seed=evaluated.seed, options={"index": row.problem})
    except ValueError as error:
        raise ValueError(
            f"{where}: the set has no such problem now ({error}): give the data set that was sampled, or --to another "
            "folder"
        ) from error
    if prompt_hash(prompt, info.get("messages")) != row.prompt_hash:
        raise ValueError(
            f"{where}: its answers are to another prompt than the set has now, so that their verdicts would be of "
            "another problem: give the data set and the prompt that they were sampled with"
        )
    told: Any = getattr(env.unwrapped, "prompt_rendered", None)
    if told is not None and row.prompt_end is not None:
        told(row.prompt_end)
    verdict = verdict_of(env, answer.text, where)
    return replace(answer, reward=verdict.reward, outcome=verdict.outcome, answer=verdict.answer)
