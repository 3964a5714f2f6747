"""TeacherGroup, the replicas of a teacher. A failed replica degrades the run and prints why.

The least loaded replica gets the next request. A request that times out, dies or gets an invalid answer is tried once
more, on another replica if there is one. After that the group of episodes goes on without guidance, and a metric counts
it. The run fails only above `max_unguided_share`. A dead replica starts again while the others go on serving. With no
replica alive, requests wait.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayTaskError

from tgpo_ray.cluster import ACTOR_ERRORS, ActorStartError, actor, kill, root_cause, wait_until_started
from tgpo_ray.episode import Guidance, SampledGroup
from tgpo_ray.models import Completion, Sampling, engine_environment
from tgpo_ray.teachers.answers import AnswerCheck
from tgpo_ray.teachers.batch_requests import BatchRequests
from tgpo_ray.teachers.counts import ScoringCounts
from tgpo_ray.teachers.replica import Replica
from tgpo_ray.teachers.spec import TeacherSpec
from tgpo_ray.teachers.teacher import Teacher

MAX_TRIES = 2


@dataclass(eq=False)
class _Request:
    batch: BatchRequests
    group: SampledGroup
    want: list[str]
    replica: Replica
    ref: ray.ObjectRef[list[Guidance]]
    check: ray.ObjectRef[AnswerCheck]  # of `ref`; the driver fetches only this part of the answer
    tries: int
    since: float = field(default_factory=time.monotonic)


class TeacherGroup:
    """A pool of Teachers behind one queue. `annotate` streams groups through it, `Scoring` through several.

    Threads may use it together, each with a batch of its own.

    Args:
        spec: settings of each teacher.
        num_replicas: number of Teacher actors.
        num_cpus, num_gpus: Ray resources of one replica.
        timeout_s: seconds that a replica may work on one request.
        max_unguided_share: share of one iteration's groups that may go on without guidance.
        start_timeout_s: seconds that a replica may take to load its model.
        teacher_class: the actor's class, `Teacher` or one derived from it.
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
        teacher_class: type[Teacher] = Teacher,
    ) -> None:
        self.spec = spec
        self._class = teacher_class
        self._options: dict[str, Any] = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "runtime_env": {"env_vars": engine_environment(gpu=spec.gpu)},
        }
        self._timeout_s, self._start_timeout_s = timeout_s, start_timeout_s
        self._max_unguided_share = max_unguided_share
        self._busy_s = 0.0
        self._open: list[_Request] = []
        self._lock = threading.RLock()  # of the open requests and of the replicas
        self._lost = ""  # the reason for which a replica did not start again
        self.replicas = [Replica(f"teacher replica {i}", self._start) for i in range(num_replicas)]
        self._ready = False

    def _start(self) -> Any:
        return actor(self._class, self.spec, **self._options)

    @property
    def handles(self) -> list[Any]:
        """The replicas' Ray actors, for calls that this class does not have."""
        return [replica.handle for replica in self.replicas]

    def wait_until_ready(self) -> None:
        """Block until every replica has loaded its model.

        Raises:
            ActorStartError: the model did not come up. The message has the cause.
        """
        if self._ready:
            return
        try:
            wait_until_started(self.handles, "Teacher", self._hint, self._start_timeout_s)
            self._notice_starts()
        except BaseException:
            self.stop()
            raise
        self._ready = True

    @property
    def _hint(self) -> str:
        return f"It loads teacher {self.spec.engine.model!r}, backend {self.spec.backend}"

    # ---- requests

    def batch(self, scorer: str) -> BatchRequests:
        """Returns an empty batch, whose groups come back with guidance under the name `scorer`."""
        return BatchRequests(self, scorer)

    @property
    def num_open(self) -> int:
        """The number of requests that wait for an answer."""
        return len(self._open)

    def send(
        self, batch: BatchRequests, group: SampledGroup, want: list[str], tries: int, avoid: Replica | None = None
    ) -> None:
        """Send this group of the batch to the least loaded replica."""
        with self._lock:
            replica = self.choose(group, avoid)
            # two returns: the check is fetched, the tokens stay in the object store
            method = replica.handle.annotate_checked.options(num_returns=2)
            ref, check = method.remote(group.ref, want)
            self._open.append(_Request(batch, group, want, replica, ref, check, tries))

    def choose(self, group: SampledGroup, avoid: Replica | None = None) -> Replica:
        """Returns the least loaded live replica. Among equals it is the problem's home, whose cache may know it."""
        home, count = hash((group.task.env_index, group.task.problem_index)), len(self.replicas)
        load = {id(replica): 0 for replica in self.replicas}
        for request in self._open:
            load[id(request.replica)] += 1

        def rank(index: int) -> tuple[bool, bool, int, int]:
            replica = self.replicas[index]
            return (not replica.alive, replica is avoid, load[id(replica)], (index - home) % count)

        return self.replicas[min(range(count), key=rank)]

    def collect(self, *, wait_s: float) -> None:
        """Give the groups whose scoring has ended to their batches, after a wait for news of `wait_s` at most.

        Raises:
            ActorStartError: no replica is left.
        """
        self._wait_for_news(wait_s)
        with self._lock:
            self._notice_starts()
            refs = [request.check for request in self._open]
            ready = set(ray.wait(refs, num_returns=len(refs), timeout=0)[0]) if refs else set()
            for request in [request for request in self._open if request.check in ready]:
                if request in self._open:  # an earlier death in this loop may have moved it
                    request.replica.heard = time.monotonic()
                    self._answered(request)
            for request in [request for request in self._open if request.check not in ready]:
                if request in self._open and self._is_late(request):
                    print(f"{request.replica.name}: no answer within {self._timeout_s:g} s", flush=True)
                    self._fail_over(request.replica)

    def _wait_for_news(self, wait_s: float) -> None:
        """Block until an answer or a start arrives, for `wait_s` seconds at most."""
        with self._lock:
            refs = [request.check for request in self._open]
            refs += [replica.start_ref for replica in self.replicas if not replica.alive]
        if refs and wait_s:
            ray.wait(refs, num_returns=1, timeout=wait_s)

    def _is_late(self, request: _Request) -> bool:
        """Returns whether the replica has worked on this request for too long. Queueing and starting do not count."""
        replica = request.replica
        return replica.alive and time.monotonic() - max(request.since, replica.heard) > self._timeout_s

    def _answered(self, request: _Request) -> None:
        """Pass an answered request's group on, or try it again."""
        batch = request.batch
        try:
            check: Any = ray.get(request.check)
        except ACTOR_ERRORS:
            if request.replica.alive:  # `_notice_starts` handles a failed start
                self._fail_over(request.replica)
            return
        except ObjectLostError:  # of the group's episodes, with their node: no replica can read them
            raise
        except RayTaskError as error:
            reason = root_cause(error)
            with contextlib.suppress(RayTaskError):  # the same error: Ray prints those that nobody fetches
                ray.get(request.ref)
        else:
            batch.counts.sequences += check.num_sequences
            batch.counts.cached += check.num_cached
            self._busy_s += check.busy_s
            if not check.flaw:
                self._open.remove(request)
                batch.done.append(replace(request.group, guidance={batch.scorer: request.ref}))
                return
            batch.counts.rejected += 1
            reason = f"its answer is refused: {check.flaw}"
        print(f"{request.replica.name}: {reason}", flush=True)
        self._open.remove(request)
        self._again(request)

    def _again(self, request: _Request) -> None:
        """Try a failed request once more, elsewhere if possible. After the last try its group goes on unguided."""
        if request.tries < MAX_TRIES:
            request.batch.counts.retries += 1
            self.send(request.batch, request.group, request.want, request.tries + 1, request.replica)
        else:
            request.batch.counts.unguided += 1
            request.batch.done.append(request.group)

    # ---- replicas that fail

    def _fail_over(self, replica: Replica) -> None:
        """Restart the replica and send its requests again. Only the one it worked on counts as failed."""
        failed, *waiting = self._taken_from(replica)  # an actor works in order, so the oldest is in work
        replica.restart()
        failed.batch.counts.restarts += 1
        self._again(failed)
        for request in waiting:
            self.send(request.batch, request.group, request.want, request.tries)

    def _taken_from(self, replica: Replica) -> list[_Request]:
        """Returns the replica's open requests, oldest first, and removes them from the queue."""
        requests = [request for request in self._open if request.replica is replica]
        self._open = [request for request in self._open if request.replica is not replica]
        return requests

    def _notice_starts(self) -> None:
        """Update which replicas are alive. Those whose start failed start again or are given up; the last raises."""
        for replica in [replica for replica in self.replicas if not replica.alive]:
            reason = replica.check_start(self._start_timeout_s)
            if reason is None:
                continue
            print(f"{replica.name} failed to start again: {reason}", flush=True)
            waiting = self._taken_from(replica)
            self._lost = reason
            if not replica.try_again():
                self.replicas.remove(replica)
            for request in waiting if self.replicas else ():
                self.send(request.batch, request.group, request.want, request.tries)
        if not self.replicas:  # every thread that waits hears of it
            raise ActorStartError(f"no Teacher is left, the last failed to start again: {self._lost}. {self._hint}")

    def forget(self, batch: BatchRequests) -> None:
        """Drop the batch's open requests."""
        with self._lock:
            self._open = [request for request in self._open if request.batch is not batch]

    def check_share(self, counts: ScoringCounts) -> None:
        """Raises RuntimeError where more than `max_unguided_share` of a batch got no guidance."""
        if counts.unguided > self._max_unguided_share * counts.groups:
            raise RuntimeError(
                f"{counts.unguided} of {counts.groups} groups got no guidance, above "
                f"fault_tolerance.max_unguided_share = {self._max_unguided_share}: the teacher is dying or too slow "
                f"for teacher_timeout_s = {self._timeout_s:g}; see the Teacher actors' logs"
            )

    # ---- other work

    @property
    def num_workers(self) -> int:
        return len(self.replicas)

    def take_busy_s(self) -> float:
        """Returns the seconds that the replicas have worked since the last call, added up."""
        busy_s, self._busy_s = self._busy_s, 0.0
        return busy_s

    def generate(self, prompts: list[list[int]], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """Returns n Completions for each prompt, in order. The prompts are dealt over the replicas."""
        self.wait_until_ready()
        replicas = list(self.replicas)
        # prompt i goes to replica i % count, as its number i // count
        hands = [prompts[i :: len(replicas)] for i in range(len(replicas))]
        refs = [r.handle.generate.remote(hand, sampling, n=n) for r, hand in zip(replicas, hands, strict=True)]
        answers = []
        for replica, hand, ref in zip(replicas, hands, refs, strict=True):
            try:
                answers.append(ray.get(ref))
            except ACTOR_ERRORS:
                replica.restart()
                answers.append(ray.get(replica.handle.generate.remote(hand, sampling, n=n)))
        return [answers[i % len(refs)][i // len(refs)] for i in range(len(prompts))]

    def stop(self) -> None:
        """End every replica. Its CPUs and GPUs return to the cluster."""
        kill(self.handles)
        self.replicas = []
        self._open = []
