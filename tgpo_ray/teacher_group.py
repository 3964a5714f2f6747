"""TeacherGroup: replicas of a teacher; work goes to the least loaded, and one that fails degrades the run, loudly.

A request that times out or dies is tried once more on another replica; after that the group of episodes goes on without
guidance, which is counted, and the run fails only above `max_unguided_share`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayTaskError

from tgpo_ray.actors import ACTOR_ERRORS, actor, kill, root_cause, wait_until_started
from tgpo_ray.engine import Sampling, engine_environment
from tgpo_ray.episode import SampledGroup
from tgpo_ray.teacher import Teacher, TeacherSpec

MAX_TRIES = 2


@dataclass(eq=False)
class _Request:
    group: SampledGroup
    want: list[str]
    replica: int
    ref: Any  # ObjectRef of a list of Guidance
    checked: Any  # ObjectRef of a bool: whether those fit the group. All of the answer that the driver fetches
    tries: int
    since: float = field(default_factory=time.monotonic)


class TeacherGroup:
    """Several Teachers behind one queue; `annotate` below streams groups through it.

    Args:
        spec: what each teacher is made of.
        num_replicas: how many.
        num_cpus, num_gpus: Ray resources of one replica.
        timeout_s: seconds that a replica may work on one request.
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
        self._heard = [0.0] * num_replicas  # when each last answered, by the monotonic clock
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
        try:
            self._wait(self._replicas)
        except BaseException:
            self.stop()
            raise
        self._ready = True

    def _wait(self, replicas: Sequence[Any]) -> None:
        hint = f"It loads teacher {self.spec.engine.model!r} into vLLM"
        wait_until_started(replicas, "Teacher", hint, self._start_timeout_s)

    def submit(self, group: SampledGroup, want: Collection[str]) -> None:
        """Have the least loaded replica score this group; `finished` hands it out."""
        self._send(group, sorted(want), tries=1)
        self.num_submitted += 1

    def _send(self, group: SampledGroup, want: list[str], tries: int, *, avoid: int | None = None) -> None:
        load = [0] * len(self._replicas)
        for request in self._open:
            load[request.replica] += 1
        replica = min(range(len(load)), key=lambda i: (i == avoid, load[i]))
        method = self._replicas[replica].annotate_checked.options(num_returns=2)
        ref, checked = method.remote(group.ref, want)
        self._open.append(_Request(group, want, replica, ref, checked, tries))

    def finished(self, scorer: str, *, wait_s: float) -> Iterator[SampledGroup]:
        """Groups whose scoring has ended by now, with their guidance under `scorer`, or without it where it failed."""
        refs = [request.checked for request in self._open]
        if refs and wait_s:
            ray.wait(refs, num_returns=1, timeout=wait_s)
        ready = set(ray.wait(refs, num_returns=len(refs), timeout=0)[0]) if refs else set()
        for request in [request for request in self._open if request.checked in ready]:
            if request in self._open:  # a death before it in this loop may have sent it elsewhere
                self._heard[request.replica] = time.monotonic()
                yield from self._answered(request, scorer)
        for request in [request for request in self._open if request.checked not in ready]:
            if request in self._open and self._is_late(request):
                print(f"teacher replica {request.replica}: no answer within {self._timeout_s:g} s", flush=True)
                yield from self._fail_over(request.replica)

    def _is_late(self, request: _Request) -> bool:
        """Whether the replica has worked on this request alone for too long: time in its queue does not count."""
        return time.monotonic() - max(request.since, self._heard[request.replica]) > self._timeout_s

    def _answered(self, request: _Request, scorer: str) -> Iterator[SampledGroup]:
        try:
            if ray.get(request.checked):
                self._open.remove(request)
                yield replace(request.group, guidance={**request.group.guidance, scorer: request.ref})
                return
            print(f"teacher replica {request.replica}: its answer does not fit the responses", flush=True)
        except ACTOR_ERRORS:
            yield from self._fail_over(request.replica)
            return
        except RayTaskError as error:
            print(f"teacher replica {request.replica}: {root_cause(error)}", flush=True)
        self._open.remove(request)
        yield from self._again(request)

    def _fail_over(self, replica: int) -> Iterator[SampledGroup]:
        """Start the replica again and send what it held once more; only what it was working on counts as a failure."""
        failed, *waiting = [request for request in self._open if request.replica == replica]
        self._open = [request for request in self._open if request.replica != replica]
        ray.kill(self._replicas[replica])
        self._replicas[replica] = self._start()
        self.num_restarts += 1
        self._wait([self._replicas[replica]])  # starting is no part of any request's time
        self._heard[replica] = time.monotonic()
        yield from self._again(failed)
        for request in waiting:
            self._send(request.group, request.want, request.tries)

    def _again(self, request: _Request) -> Iterator[SampledGroup]:
        """Try a failed request on another replica, if there is one; after the last try its group goes unguided."""
        if request.tries < MAX_TRIES:
            self._send(request.group, request.want, request.tries + 1, avoid=request.replica)
        else:
            self.num_unguided += 1
            yield request.group

    def forget(self) -> None:
        """Drop what is still open: an iteration that is given up must not be answered in the next one."""
        self._open = []
        self.num_unguided = self.num_submitted = 0

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
    try:
        for group in groups:
            pool = pool_of(group)
            pools[id(pool)] = pool
            pool.submit(group, want)
            for busy in pools.values():
                yield from busy.finished(scorer, wait_s=0.0)
        for pool in pools.values():
            yield from pool.drain(scorer)
    finally:
        for pool in pools.values():
            pool.forget()
