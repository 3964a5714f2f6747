"""TeacherGroup: replicas of a teacher; work goes to the least loaded, and one that fails degrades the run, loudly.

A request that times out or dies is tried once more on another replica; after that the group of episodes goes on without
guidance, which is counted, and the run fails only above `max_unguided_share`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from tgpo_ray.actors import ACTOR_ERRORS, actor, kill, root_cause, wait_until_started
from tgpo_ray.engine import Sampling, engine_environment
from tgpo_ray.env_runner_group import SampledGroup
from tgpo_ray.teacher import Teacher, TeacherSpec

MAX_TRIES = 2


@dataclass
class _Request:
    group: SampledGroup
    want: list[str]
    replica: int
    ref: Any
    tries: int = 1
    since: float = field(default_factory=time.monotonic)


class TeacherGroup:
    """Several Teachers behind one queue; `annotate` below streams groups through it.

    Args:
        spec: what each teacher is made of.
        num_replicas: how many.
        num_cpus, num_gpus: Ray resources of one replica.
        timeout_s: seconds that one request may take.
        max_unguided_share: share of the groups of one iteration that may go on without guidance.
    """

    def __init__(
        self,
        spec: TeacherSpec,
        num_replicas: int = 1,
        *,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        timeout_s: float = 60.0,
        max_unguided_share: float = 0.05,
        start_timeout_s: float = 600.0,
    ) -> None:
        self.spec = spec
        self._options: dict[str, Any] = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "runtime_env": {"env_vars": engine_environment(gpu=spec.gpu)},
        }
        self._timeout_s, self._start_timeout_s = timeout_s, start_timeout_s
        self._max_unguided_share = max_unguided_share
        self.num_restarts = 0
        self.num_submitted = self.num_unguided = 0  # groups since the last `drain`
        self._open: list[_Request] = []
        self._replicas = [self._start() for _ in range(num_replicas)]
        self._load = [0] * num_replicas
        self._ready = False

    def _start(self) -> Any:
        return actor(Teacher, self.spec, **self._options)

    def wait_until_ready(self) -> None:
        """Block until every replica holds its model.

        Raises:
            ActorStartError: vLLM did not come up; the message has the cause.
        """
        if self._ready:
            return
        hint = f"It loads teacher {self.spec.engine.model!r} into vLLM"
        try:
            wait_until_started(self._replicas, "Teacher", hint, self._start_timeout_s)
        except BaseException:
            self.stop()
            raise
        self._ready = True

    def submit(self, group: SampledGroup, want: Collection[str]) -> None:
        """Have the least loaded replica score this group; `finished` hands it out."""
        self._send(group, sorted(want), tries=1)
        self.num_submitted += 1

    def _send(self, group: SampledGroup, want: list[str], tries: int) -> None:
        replica = min(range(len(self._replicas)), key=self._load.__getitem__)
        self._load[replica] += 1
        ref = self._replicas[replica].annotate.remote(group.ref, want)
        self._open.append(_Request(group, want, replica, ref, tries))

    def finished(self, scorer: str, *, wait_s: float) -> Iterator[SampledGroup]:
        """Groups whose scoring has ended by now, with their guidance under `scorer`, or without it where it failed."""
        if not self._open:
            return
        refs = [request.ref for request in self._open]
        ready, _ = ray.wait(refs, num_returns=1 if wait_s else len(refs), timeout=wait_s, fetch_local=False)
        done = {ref.hex() for ref in ready}
        for request in list(self._open):
            late = time.monotonic() - request.since > self._timeout_s
            if request.ref.hex() not in done and not late:
                continue
            self._open.remove(request)
            self._load[request.replica] -= 1
            if request.ref.hex() in done and self._succeeded(request):
                yield replace(request.group, guidance={**request.group.guidance, scorer: request.ref})
                continue
            if late:
                self._restart(request.replica)
            if request.tries < MAX_TRIES:
                self._send(request.group, request.want, request.tries + 1)
            else:
                self.num_unguided += 1
                yield request.group

    def drain(self, scorer: str) -> Iterator[SampledGroup]:
        """What is still open, as it ends.

        Raises:
            RuntimeError: more than `max_unguided_share` of the groups submitted since the last drain got no guidance.
        """
        while self._open:
            yield from self.finished(scorer, wait_s=0.2)
        unguided, total = self.num_unguided, self.num_submitted
        self.num_unguided = self.num_submitted = 0
        if unguided > self._max_unguided_share * total:
            raise RuntimeError(
                f"{unguided} of {total} groups got no guidance, above fault_tolerance.max_unguided_share = "
                f"{self._max_unguided_share}: the teacher is dying or too slow for teacher_timeout_s = "
                f"{self._timeout_s:g}; see the Teacher actors' logs"
            )

    def _succeeded(self, request: _Request) -> bool:
        """Whether the answer is an answer; a dead replica is started again on the way."""
        try:
            answers = ray.get(request.ref, timeout=self._timeout_s)
            return _is_aligned(answers, request.group)
        except ACTOR_ERRORS:
            self._restart(request.replica)
        except (RayTaskError, GetTimeoutError) as error:
            print(f"teacher replica {request.replica}: {root_cause(error)}", flush=True)
        return False

    def _restart(self, replica: int) -> None:
        ray.kill(self._replicas[replica])
        self._replicas[replica] = self._start()
        self._load[replica] = 0
        self.num_restarts += 1

    def generate(self, prompts: list[list[int]], sampling: Sampling, n: int = 1) -> list[Any]:
        """Traces: n Completions for each prompt, the prompts dealt over the replicas."""
        self.wait_until_ready()
        hands = [prompts[i :: len(self._replicas)] for i in range(len(self._replicas))]
        refs = [
            replica.generate.remote(hand, sampling, n=n) for replica, hand in zip(self._replicas, hands, strict=True)
        ]
        answers = ray.get(refs)
        return [answers[i % len(refs)][i // len(refs)] for i in range(len(prompts))]

    def stop(self) -> None:
        """End every replica; its CPUs and GPUs return to the cluster."""
        kill(self._replicas)
        self._replicas = []


def _is_aligned(answers: Any, group: SampledGroup) -> bool:
    """Whether there is one answer an episode and one position a response token: nothing else may be trained on."""
    lengths = [info.num_response_tokens for info in group.infos]
    if len(answers) != len(lengths):
        return False
    arrays = [
        (values, length)
        for guidance, length in zip(answers, lengths, strict=True)
        for values in (guidance.teacher_ids, guidance.teacher_logprobs, guidance.topk_ids, guidance.topk_logprobs)
        if values is not None
    ]
    return all(len(values) == length and not np.isnan(values).any() for values, length in arrays)


def annotate(
    groups: Iterable[SampledGroup],
    pool_of: Callable[[SampledGroup], TeacherGroup],
    want: Collection[str],
    scorer: str = "teacher",
) -> Iterator[SampledGroup]:
    """Yield every group again, with guidance from its own pool under `scorer`, as soon as that is there.

    Scoring runs while `groups` still produces: a sequence needs nothing but itself.

    Raises:
        RuntimeError: a pool failed on more than its `max_unguided_share` of the groups.
    """
    pools: dict[int, TeacherGroup] = {}
    for group in groups:
        pool = pool_of(group)
        pools[id(pool)] = pool
        pool.submit(group, want)
        for busy in pools.values():
            yield from busy.finished(scorer, wait_s=0.0)
    for pool in pools.values():
        yield from pool.drain(scorer)
