"""EnvRunnerGroup, a pool of EnvRunner actors that samples groups of episodes and survives the death of actors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import ray

from tgpo_ray.cluster import ACTOR_ERRORS, actor, kill, wait_until_started
from tgpo_ray.env_runners.runner import EnvRunner, EnvRunnerSpec
from tgpo_ray.episode import SampledGroup, Task
from tgpo_ray.models import Sampling, engine_environment

if TYPE_CHECKING:
    from tgpo_ray.models import Bucket
    from tgpo_ray.teachers import Prefixes

POLL_S = 1.0
SEEDS_OF_A_ROUND = 100  # one for each runner; ten rounds stay below the seeds of the next iteration


@dataclass
class _Share:
    """The tasks of one runner in a round, and the stream of its groups."""

    runner: int
    stream: Any
    tasks: dict[int, Task]  # unfinished tasks by ordinal
    since: float = field(default_factory=time.monotonic)


class EnvRunnerGroup:
    """A pool of EnvRunners with one `sample`.

    Args:
        spec: settings of each runner.
        num_env_runners: number of EnvRunner actors.
        num_cpus, num_gpus: Ray resources of one runner.
        max_restarts: number of runner deaths that the group survives in all.
        start_timeout_s, sample_timeout_s: seconds that a start, and the wait for any next group, may take.
    """

    def __init__(
        self,
        spec: EnvRunnerSpec,
        num_env_runners: int = 1,
        *,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        max_restarts: int = 10,
        start_timeout_s: float = 600.0,
        sample_timeout_s: float = 600.0,
    ) -> None:
        self.spec = spec
        self._options: dict[str, Any] = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "runtime_env": {"env_vars": engine_environment(gpu=spec.gpu)},
        }
        self._restarts_left = max_restarts
        self._start_timeout_s, self._sample_timeout_s = start_timeout_s, sample_timeout_s
        self.num_restarts = 0
        self.weights_version = 0
        self._buckets: Sequence[ray.ObjectRef[Bucket]] | None = None
        self.prefixes: Prefixes | None = None  # teacher-written beginnings of responses; None: the policy writes all
        self._runners = [self._start() for _ in range(num_env_runners)]
        self._ready = False
        self._num_problems: list[int | None] = []

    def _start(self) -> Any:
        return actor(EnvRunner, self.spec, **self._options)

    def wait_until_ready(self) -> None:
        """Block until every runner has its engine.

        Raises:
            ActorStartError: vLLM or an environment did not come up. The message has the cause.
        """
        if not self._ready:
            try:
                self._wait(self._runners)
            except BaseException:
                self.stop()
                raise
            self._ready = True
            self._num_problems = ray.get(self._runners[0].num_problems.remote())

    def _wait(self, runners: Sequence[Any]) -> None:
        engine = self.spec.engine
        hint = (
            f"It loads model {engine.model!r} into vLLM with a KV cache of {engine.kv_cache_memory / 2**20:.0f} MiB "
            f"and a context of {engine.max_model_len} tokens"
        )
        wait_until_started(runners, "EnvRunner", hint, self._start_timeout_s)

    @property
    def num_problems(self) -> list[int | None]:
        """The number of problems of each environment in `spec.envs`, None where it is unlimited."""
        self.wait_until_ready()
        return self._num_problems

    def sync_weights(self, version: int, buckets: Sequence[ray.ObjectRef[Bucket]]) -> None:
        """Load these weights into every runner under this version. A runner that restarts gets them too."""
        self.wait_until_ready()
        self._buckets, self.weights_version = buckets, version
        # all runners load at the same time
        pending = {runner.sync_weights.remote(version, buckets): i for i, runner in enumerate(self._runners)}
        for ref, index in pending.items():
            try:
                ray.get(ref, timeout=self._sample_timeout_s)
            except ACTOR_ERRORS as error:
                self._replace(index, error)

    def sample(
        self,
        tasks: Sequence[Task],
        group_size: int,
        sampling: Sampling,
        seed: int,
        *,
        keep: Callable[[SampledGroup], bool] | None = None,
        more: Callable[[int], Sequence[Task]] | None = None,
        max_rounds: int = 10,
    ) -> Iterator[SampledGroup]:
        """Yields one group a task as the groups finish, each exactly once.

        A runner that dies restarts with the current weights, and its unfinished tasks are sampled again.

        Args:
            keep: returns whether to yield a group. In the next round, as many tasks from `more` replace the refused
                groups and take over their ordinals. A round begins after the end of the one before, so the drawn tasks
                do not depend on the order in which groups finish.
            more: draws tasks, e.g. `Cursor.next`. `keep` needs it.
            max_rounds: number of rounds after which refused groups are left out.

        Raises:
            ValueError: `keep` without `more`.
            TimeoutError: no runner finished a group for `sample_timeout_s`.
            RuntimeError: more runners died than `max_restarts`.
        """
        if keep is not None and more is None:
            raise ValueError("keep needs more: where the tasks come from that replace a refused group")
        for number in range(max_rounds):
            refused: list[int] = []
            for group in self._sample_round(tasks, group_size, sampling, seed + number * SEEDS_OF_A_ROUND):
                if keep is None or keep(group):
                    yield group
                else:
                    refused.append(group.ordinal)
            if not refused or more is None or number == max_rounds - 1:
                return
            drawn = zip(sorted(refused), more(len(refused)), strict=True)  # sorted: the order of finishing varies
            tasks = [replace(task, ordinal=ordinal) for ordinal, task in drawn]

    def _sample_round(
        self, tasks: Sequence[Task], group_size: int, sampling: Sampling, seed: int
    ) -> Iterator[SampledGroup]:
        """Yields one group a task as the groups finish."""
        self.wait_until_ready()
        shares = self._deal(tasks, group_size, sampling, seed)
        while shares:
            ready, _ = ray.wait([share.stream for share in shares], num_returns=1, timeout=POLL_S)
            if not ready:
                self._check_deadline(shares)
                continue
            share = next(share for share in shares if share.stream is ready[0])
            try:
                group = self._next_group(share)
            except StopIteration:
                assert not share.tasks, "a runner ended its stream before its last group"
                shares.remove(share)
                continue
            except ACTOR_ERRORS as error:
                self._replace(share.runner, error)
                shares.remove(share)
                left = list(share.tasks.values())
                shares.append(self._give(share.runner, left, group_size, sampling, seed))
                continue
            yield group

    def _deal(self, tasks: Sequence[Task], group_size: int, sampling: Sampling, seed: int) -> list[_Share]:
        hands = [tasks[i :: len(self._runners)] for i in range(len(self._runners))]
        return [self._give(i, hand, group_size, sampling, seed) for i, hand in enumerate(hands) if hand]

    def _give(self, runner: int, tasks: Sequence[Task], group_size: int, sampling: Sampling, seed: int) -> _Share:
        method = self._runners[runner].sample.options(num_returns="streaming")
        stream = method.remote(tasks, group_size, sampling, seed + runner, self.prefixes)
        return _Share(runner, stream, {task.ordinal: task for task in tasks})

    @staticmethod
    def _next_group(share: _Share) -> SampledGroup:
        ref = next(share.stream)
        # A runner yields the group and then its infos, and only the infos are fetched. If it dies between the two, the
        # fetched `ref` is its error. With `ref` as the default of `next`, a lone error item raises here.
        ordinal, infos = ray.get(next(share.stream, ref))
        share.since = time.monotonic()
        return SampledGroup(ordinal, share.tasks.pop(ordinal), infos, ref)

    def _check_deadline(self, shares: Sequence[_Share]) -> None:
        silent = time.monotonic() - max(share.since for share in shares)
        if silent > self._sample_timeout_s:
            raise TimeoutError(
                f"no EnvRunner finished a group for {silent:.0f} s (fault_tolerance.sample_timeout_s): an environment "
                "that does not return from step, or an engine that is too slow for max_response_tokens"
            )

    def _replace(self, index: int, error: BaseException) -> None:
        """Restart a dead runner. Its weights are stale, so it gets the current ones before any work."""
        if self._restarts_left == 0:
            raise RuntimeError(
                "an EnvRunner died and fault_tolerance.max_env_runner_restarts is used up; last cause: " + str(error)
            ) from error
        self._restarts_left -= 1
        self.num_restarts += 1
        ray.kill(self._runners[index])  # a runner that is only out of reach would keep its resources
        self._runners[index] = self._start()
        self._wait([self._runners[index]])
        if self._buckets is not None:
            ray.get(self._runners[index].sync_weights.remote(self.weights_version, self._buckets))

    def stop(self) -> None:
        """End every runner and its processes."""
        kill(self._runners)
        self._runners = []
        self._buckets = None
