"""LearnerGroup: data-parallel learners as a Ray Train run, driven by commands through a mailbox.

Ray Train brings placement, process groups, restarts and checkpoint storage; the mailbox keeps the loop on the driver,
where it can be read. Nothing here is a singleton: a policy and a process-reward model are two groups side by side.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import ray

from tgpo_ray.cluster import ACTOR_ERRORS, actor_of_driver, root_cause
from tgpo_ray.episode import SampledGroup
from tgpo_ray.kernels import TokenLoss
from tgpo_ray.learners.batch import MicroBatch, Piece, plan_micro_batches
from tgpo_ray.learners.command_mailbox import Mailbox
from tgpo_ray.learners.learner import LearnerSpec, Sums
from tgpo_ray.learners.train_run import Placement, TrainRun, make_trainer

if TYPE_CHECKING:
    from tgpo_ray.learners.batch import EpisodeKey
    from tgpo_ray.models import Bucket

NumberT = TypeVar("NumberT", bound=float)
POLL_S = 2.0
KILL_S = 60.0  # for Ray Train to notice that its ranks were killed


class LearnersRestartedError(RuntimeError):
    """Ray Train started the ranks again from the last checkpoint; what was pending did not happen."""


class LearnerError(RuntimeError):
    """A rank failed on a command, or Ray Train gave up; the message has the cause."""


class LearnerGroup:
    """The learners behind one interface; every method is one command to all ranks.

    Args:
        spec: model, optimizer and precision of each rank.
        placement: number of ranks, and their resources.
        run: storage and restarts.
        token_budget: padded tokens of one micro-batch on one rank.
    """

    def __init__(self, spec: LearnerSpec, placement: Placement, run: TrainRun, token_budget: int) -> None:
        self.spec, self.placement, self.run, self.token_budget = spec, placement, run, token_budget
        self._mailbox = actor_of_driver(Mailbox, placement.num_learners, max_concurrency=1000)
        self._error: BaseException | None = None
        self._stopped = False
        self._pending: list[tuple[int, Callable[[list[Any]], None]]] = []
        self._sums: list[Sums] = []
        self._thread = threading.Thread(target=self._fit, name=f"{run.name}-fit", daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        """Runs for the life of the group. Off the main thread Ray Train leaves SIGINT to the driver."""
        try:
            make_trainer(self._mailbox, self.spec, self.placement, self.run).fit()
        except BaseException as error:
            self._error = error
        if not ray.is_initialized():  # the driver has shut it down: a call would start it again
            return
        with contextlib.suppress(*ACTOR_ERRORS):
            if self._stopped:
                ray.kill(self._mailbox)
            elif self._error is not None:
                ray.get(self._mailbox.fail_pending.remote(root_cause(self._error)))

    def wait_until_ready(self) -> None:
        """Block until every rank holds its model.

        Raises:
            LearnerError: not within `run.start_timeout_s`, or a rank failed.
        """
        placement, timeout_s = self.placement, self.run.start_timeout_s
        try:
            self._wait(self._send("ping", [None] * placement.num_learners), timeout_s)
        except TimeoutError:
            share = f"{placement.num_cpus:g} CPUs" + (f" and {placement.num_gpus:g} GPUs" if placement.num_gpus else "")
            raise LearnerError(
                f"the learners did not start within {timeout_s:.0f} s (fault_tolerance.start_timeout_s): the nodes may "
                f"lack {share} for each of the {placement.num_learners} (see `ray status`), or the model loads slowly"
            ) from None

    # -- updates -----------------------------------------------------------------------------------------------------

    def accumulate(self, groups: Sequence[SampledGroup], advantages: Sequence[np.ndarray], loss: TokenLoss) -> None:
        """Add the gradients of these groups; returns at once, `step` collects metrics and errors."""
        self._post("accumulate", [(plan, loss) for plan in self._plan(groups, advantages)], self._collect_sums)

    def remember_logprobs(self, groups: Sequence[SampledGroup]) -> None:
        """Have the ranks keep log pi(y_t) under the present weights, for updates after the next one."""
        advantages = [np.zeros(len(group.infos), np.float32) for group in groups]
        self._post("remember_logprobs", list(self._plan(groups, advantages)), lambda replies: None)

    def step(self, denominator: float, lr: float) -> dict[str, float]:
        """One optimizer update with the summed gradients divided by `denominator`; returns reduced metrics.

        Raises:
            LearnersRestartedError: the ranks died on the way; the update did not happen.
            LearnerError: a rank raised.
        """
        if not denominator > 0:
            raise ValueError(
                f"denominator must be > 0, got {denominator}: nothing was accumulated that could be trained on"
            )
        self._drain()
        replies = self._call("step", (float(denominator), lr))
        sums, self._sums = self._sums, []
        return {
            **_reduced(sums),
            **_losses([loss_sums for _, loss_sums in replies], denominator),
            **{f"optimizer/{name}": value for name, value in replies[0][0].items()},
        }

    def sampler_gaps(self, groups: Sequence[SampledGroup]) -> np.ndarray:
        """|learner - sampler| log-prob of every token that the policy wrote, where episodes carry the sampler's."""
        advantages = [np.zeros(len(group.infos), np.float32) for group in groups]
        replies = self._wait(self._send("sampler_gaps", list(self._plan(groups, advantages))))
        return np.concatenate([gaps for reply in replies for gaps in reply])

    def logprobs(self, groups: Sequence[SampledGroup]) -> list[ray.ObjectRef[dict[EpisodeKey, np.ndarray]]]:
        """References to each rank's {episode: (T,) log pi(y_t) under the present weights}."""
        advantages = [np.zeros(len(group.infos), np.float32) for group in groups]
        replies = self._wait(self._send("logprobs", list(self._plan(groups, advantages))))
        return [ref for refs in replies for ref in refs]

    def forget_logprobs(self) -> None:
        self._call("forget_logprobs")

    def _plan(self, groups: Sequence[SampledGroup], advantages: Sequence[np.ndarray]) -> list[list[MicroBatch]]:
        pieces = [
            Piece(
                group.ordinal,
                group.ref,
                group.guidance,
                np.asarray(_by_index(group, values), np.float32),
                tuple(range(len(group.infos))) if group.members is None else group.members,
            )
            for group, values in zip(groups, advantages, strict=True)
        ]
        lengths = {group.ordinal: _by_index(group, [info.num_tokens for info in group.infos]) for group in groups}
        return plan_micro_batches(pieces, lengths, self.placement.num_learners, self.token_budget)

    def _collect_sums(self, replies: list[Sums]) -> None:
        self._sums.extend(replies)

    # -- weights and checkpoints ---------------------------------------------------------------------------------------

    def weight_buckets(self) -> list[ray.ObjectRef[Bucket]]:
        """References to weight buckets, in the order of the model's parameters."""
        return self._call("weight_buckets")[0]

    def save(self, name: str, files: dict[str, str]) -> str:
        """Write a checkpoint called `name` through Ray Train's storage, with the driver's own text `files` in it.

        Returns its path; from now on it is what restarted ranks load.
        """
        self._call("save", (name, files))
        path = f"{self.run.storage_path}/{self.run.name}/{name}"
        self.resume_from(path)
        return path

    def load(self, path: str) -> None:
        """Have every rank continue from the checkpoint at `path` (a folder or a URI)."""
        self._call("load", path)
        self.resume_from(path)

    def resume_from(self, path: str | None) -> None:
        ray.get(self._mailbox.set_resume.remote(path))

    def export(self, path: str) -> None:
        """Write a Hugging Face folder at `path` (a folder or a URI)."""
        self._call("export", path)

    def processes(self) -> list[tuple[str, int]]:
        """(node id, process id) of each rank."""
        return ray.get(self._mailbox.processes.remote())

    # -- commands ------------------------------------------------------------------------------------------------------

    def _call(self, name: str, payload: object = None) -> list[Any]:
        return self._wait(self._send(name, [payload] * self.placement.num_learners))

    def _post(self, name: str, payloads: list[Any], on_reply: Callable[[list[Any]], None]) -> None:
        self._pending.append((self._send(name, payloads), on_reply))

    def _send(self, name: str, payloads: list[Any]) -> int:
        number: Any = ray.get(self._mailbox.post.remote(name, payloads))
        return number

    def _drain(self) -> None:
        pending, self._pending = self._pending, []
        for number, on_reply in pending:
            on_reply(self._wait(number))

    def _wait(self, number: int, timeout_s: float = math.inf) -> list[Any]:
        """The ranks' replies to a command; TimeoutError where there are none after `timeout_s`."""
        ref, end = self._mailbox.result.remote(number), time.monotonic() + timeout_s
        while not ray.wait([ref], timeout=min(POLL_S, timeout_s))[0]:
            if time.monotonic() > end:
                raise TimeoutError
            if not self._thread.is_alive():
                raise LearnerError(f"the learners' Ray Train run has ended: {self._cause()}") from self._error
        status, value = ray.get(ref)
        if status == "done":
            return value
        self._pending, self._sums = [], []
        if status == "restarted":
            raise LearnersRestartedError("the learners were restarted from their last checkpoint")
        raise LearnerError(value) from self._error

    def _cause(self) -> str:
        return root_cause(self._error) if self._error else "no error was reported"

    def stop(self, grace_s: float = 20.0) -> None:
        """End the ranks: ask, wait, then kill their processes. Safe to call twice.

        Ranks that are still starting, or wait for a place, are not waited for: the mailbox stays and ends them.
        """
        self._stopped = True
        with contextlib.suppress(*ACTOR_ERRORS):
            ranks: Any = ray.get(self._mailbox.stop.remote())
            self._thread.join(grace_s)
            if self._thread.is_alive() and ranks:  # they hang: Ray Train starts others, which find the group stopped
                for rank in ranks:
                    ray.kill(rank)
                self._thread.join(KILL_S)
        if not self._thread.is_alive():
            ray.kill(self._mailbox)


def _by_index(group: SampledGroup, values: Iterable[NumberT]) -> list[NumberT | int]:
    """`values`, one for each of the infos, at the indices of their episodes; 0 where an episode was left out."""
    if group.members is None:
        return list(values)
    by_index = dict(zip(group.members, values, strict=True))
    return [by_index.get(index, 0) for index in range(max(by_index) + 1)]


def _losses(ranks: Sequence[Mapping[str, float]], denominator: float) -> dict[str, float]:
    """`loss/<name>` of an update: the ranks' summed loss and its parts, divided as the gradient is."""
    names = {name for sums in ranks for name in sums}
    return {f"loss/{name}": sum(sums.get(name, 0.0) for sums in ranks) / denominator for name in sorted(names)}


def _reduced(sums: Sequence[Sums]) -> dict[str, float]:
    from tgpo_ray.reporting import reduce

    return reduce(sums)
