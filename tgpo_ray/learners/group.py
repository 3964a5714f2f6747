"""LearnerGroup: data-parallel learners as a Ray Train run, driven by commands through a mailbox.

Ray Train does placement, process groups, restarts and checkpoint storage. The mailbox keeps the loop on the driver.
Nothing here is a singleton, so a policy and a process-reward model can be two groups side by side.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from tgpo_ray.cluster import ACTOR_ERRORS, actor_of_driver, any_died, join, root_cause
from tgpo_ray.episode import SampledGroup
from tgpo_ray.kernels import TokenLoss
from tgpo_ray.learners.command_mailbox import Mailbox
from tgpo_ray.learners.learner import LearnerSpec, Sums
from tgpo_ray.learners.planning import MicroBatch, Piece, plan_micro_batches
from tgpo_ray.learners.reduction import by_index, losses, reduced
from tgpo_ray.learners.saving import CheckpointError
from tgpo_ray.learners.train_run import Placement, TrainRun, make_trainer

if TYPE_CHECKING:
    from tgpo_ray.learners.planning import EpisodeKey
    from tgpo_ray.models import Bucket, WeightTransfer

POLL_S = 2.0
KILL_S = 60.0  # Ray Train needs this long to notice that its ranks were killed


class LearnersRestartedError(RuntimeError):
    """Ray Train has restarted the ranks from the last checkpoint. Pending commands did not happen."""


class LearnerError(RuntimeError):
    """A rank has failed on a command, or Ray Train has given up. The message has the cause."""


class LearnerGroup:
    """All learners behind one interface. Every method is one command to all ranks.

    Args:
        spec: model, optimizer and precision of each rank.
        placement: number of ranks, and their resources.
        run: storage and restarts.
        token_budget: tokens that one micro-batch computes on one rank, padding included.
    """

    def __init__(self, spec: LearnerSpec, placement: Placement, run: TrainRun, token_budget: int) -> None:
        self.spec, self.placement, self.run, self.token_budget = spec, placement, run, token_budget
        # every rank has a poll open, and each needs a slot of the actor, beside the driver's own calls
        self._mailbox = actor_of_driver(Mailbox, placement.num_learners, max_concurrency=1000)
        self._error: BaseException | None = None
        self._stopped = False
        self._pending: list[tuple[int, Callable[[list[Any]], None]]] = []
        self._sums: list[Sums] = []
        self.num_steps = 0  # updates that were asked for
        self._busy_s = 0.0
        self._thread = threading.Thread(target=self._fit, name=f"{run.name}-fit", daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        """Run Ray Train for the life of the group. Outside the main thread it leaves SIGINT to the driver."""
        try:
            make_trainer(self._mailbox, self.spec, self.placement, self.run).fit()
        except BaseException as error:
            self._error = error
        if not ray.is_initialized():  # the driver has shut Ray down, and any remote call would start a new cluster
            return
        with contextlib.suppress(*ACTOR_ERRORS):
            if self._stopped:
                ray.kill(self._mailbox)
            elif self._error is not None:
                ray.get(self._mailbox.fail_pending.remote(root_cause(self._error)))

    def wait_until_ready(self) -> None:
        """Block until every rank holds its model.

        Raises:
            LearnerError: a rank failed, or the ranks did not start within `run.start_timeout_s`.
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
        """Add the gradients of these groups. The call returns at once; `step` collects metrics and errors."""
        self._post("accumulate", [(plan, loss) for plan in self._plan(groups, advantages)], self._collect_sums)

    def remember_logprobs(self, groups: Sequence[SampledGroup]) -> None:
        """Have the ranks keep log pi(y_t) under the present weights, for updates after the next one."""
        self._post("remember_logprobs", list(self._plan(groups)), lambda replies: None)

    def step(self, denominator: float, lr: float) -> dict[str, float]:
        """Returns the reduced metrics of one optimizer update, which divides the summed gradients by `denominator`.

        Raises:
            LearnersRestartedError: the ranks died before the end, so the update did not happen.
            LearnerError: a rank raised an error.
        """
        if not denominator > 0:
            raise ValueError(
                f"denominator must be > 0, got {denominator}: nothing was accumulated that could be trained on"
            )
        self._drain()
        self.num_steps += 1  # before the end: an update that fails may have changed the weights
        replies = self._call("step", (float(denominator), lr))
        sums, self._sums = self._sums, []
        self._busy_s += sum(busy_s for *_, busy_s in replies)
        return {
            **reduced(sums),
            **losses([loss_sums for _, loss_sums, _ in replies], denominator),
            **{f"optimizer/{name}": value for name, value in replies[0][0].items()},
        }

    @property
    def num_workers(self) -> int:
        return self.placement.num_learners

    def take_busy_s(self) -> float:
        """Returns the seconds that the ranks have worked up to the last step since the last call, added up."""
        busy_s, self._busy_s = self._busy_s, 0.0
        return busy_s

    def sampler_gaps(self, groups: Sequence[SampledGroup]) -> np.ndarray:
        """Returns (N,) |learner - sampler| log-probs of the policy's tokens, in nats.

        The episodes must carry the sampler's log-probs.
        """
        replies = self._wait(self._send("sampler_gaps", list(self._plan(groups))))
        return np.concatenate([np.zeros(0), *(gaps for reply in replies for gaps in reply)])

    def logprobs(self, groups: Sequence[SampledGroup]) -> list[ray.ObjectRef[dict[EpisodeKey, np.ndarray]]]:
        """Returns a reference for each rank to {episode: (T,) log pi(y_t) under the present weights}."""
        replies = self._wait(self._send("logprobs", list(self._plan(groups))))
        return [ref for refs in replies for ref in refs]

    def scale_weights(self, factor: float) -> None:
        """Multiply every weight by a power of two. The next update may only follow after the factor is taken back."""
        self._call("scale_weights", factor)

    def forget_logprobs(self) -> None:
        self._call("forget_logprobs")

    def _plan(
        self, groups: Sequence[SampledGroup], advantages: Sequence[np.ndarray] | None = None
    ) -> list[list[MicroBatch]]:
        """Micro-batches as [rank][step]; without `advantages`, which only a loss reads, they are 0."""
        if advantages is None:
            advantages = [np.zeros(len(group.infos), np.float32) for group in groups]
        pieces = [
            Piece(
                group.ordinal,
                group.ref,
                group.guidance,
                np.asarray(by_index(group, values), np.float32),
                tuple(range(len(group.infos))) if group.members is None else group.members,
            )
            for group, values in zip(groups, advantages, strict=True)
        ]
        lengths = {group.ordinal: by_index(group, [info.num_tokens for info in group.infos]) for group in groups}
        return plan_micro_batches(
            pieces,
            lengths,
            self.placement.num_learners,
            self.token_budget,
            layout=self.spec.layout,
            prompts={group.ordinal: max(info.num_prompt_tokens for info in group.infos) for group in groups},
        )

    def _collect_sums(self, replies: list[Sums]) -> None:
        self._sums.extend(replies)

    # -- weights and checkpoints ---------------------------------------------------------------------------------------

    def weight_buckets(self) -> list[ray.ObjectRef[Bucket]]:
        """Returns references to weight buckets, in the order of the model's parameters."""
        # every rank runs the command, because ZeRO-3 gathers weights from all of them; rank 0 has the result
        return self._call("weight_buckets")[0]

    @contextlib.contextmanager
    def sending_weights(self, transfer: WeightTransfer) -> Iterator[None]:
        """The ranks send their weights while the block has the engines receive them; it ends when both are done.

        Raises:
            LearnersRestartedError: the ranks died before the end.
        """
        number = self._send("send_weights", [transfer] * self.placement.num_learners)
        with ThreadPoolExecutor(1, thread_name_prefix="send-weights") as threads:
            sent = threads.submit(self._wait, number)
            # engines would wait for ranks that are gone
            sent.add_done_callback(lambda it: it.exception() and transfer.fail(str(it.exception())))
            try:
                yield
            except BaseException as error:
                transfer.fail(f"the driver has given up: {type(error).__name__}")
                raise
            finally:
                sent.result()

    def save(self, name: str, files: dict[str, str]) -> str:
        """Returns the path of a new checkpoint with the driver's `files`; CheckpointError if it cannot be written."""
        path = join(self.run.storage_path, self.run.name, name)
        if problem := self._call("save", (name, files))[0]:  # all ranks say the same
            raise CheckpointError(path, problem)
        self.resume_from(path)
        return path

    def load(self, path: str) -> None:
        """Have every rank continue from the checkpoint at `path` (a folder or a URI)."""
        self._call("load", path)
        self.resume_from(path)

    def resume_from(self, path: str | None) -> None:
        """Set the checkpoint that restarted ranks load."""
        ray.get(self._mailbox.set_resume.remote(path))

    def export(self, path: str) -> None:
        """Write a Hugging Face folder at `path` (a folder or a URI)."""
        self._call("export", path)

    def processes(self) -> list[tuple[str, int]]:
        """Returns (node id, process id) of each rank."""
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
        """Returns the replies of the ranks to a command; raises TimeoutError if one is missing after `timeout_s`."""
        ref, end = self._mailbox.result.remote(number), time.monotonic() + timeout_s
        # no rank answers after Ray Train's run has ended, so its thread is checked between the waits
        while not ray.wait([ref], timeout=min(POLL_S, timeout_s))[0]:
            if time.monotonic() > end:
                raise TimeoutError
            if not self._thread.is_alive():
                raise LearnerError(f"the learners' Ray Train run has ended: {self._cause()}") from self._error
        status, value = ray.get(ref)
        if status == "done":
            return value
        self._pending, self._sums = [], []  # the gradients that they belong to are lost
        if status == "error" and any_died(ray.get(self._mailbox.ranks.remote())):
            # a rank died within a collective, and another answered with an error of its connection to it
            with contextlib.suppress(LearnersRestartedError):
                self._wait(self._send("ping", [None] * self.placement.num_learners))  # it ends at the restart
            status = "restarted"
        if status == "restarted":
            raise LearnersRestartedError("the learners were restarted from their last checkpoint")
        raise LearnerError(value) from self._error

    def _cause(self) -> str:
        return root_cause(self._error) if self._error else "no error was reported"

    def stop(self, grace_s: float = 20.0) -> None:
        """End the ranks: ask them, wait, then kill their processes. A second call is safe.

        The call does not wait for ranks that are still starting or that wait for resources. The mailbox stays and ends
        them later.
        """
        self._stopped = True
        with contextlib.suppress(*ACTOR_ERRORS):
            ranks: Any = ray.get(self._mailbox.stop.remote())
            self._thread.join(grace_s)
            if self._thread.is_alive() and ranks:  # they hang; Ray Train restarts them, and `join` ends the new ones
                for rank in ranks:
                    ray.kill(rank)
                self._thread.join(KILL_S)
        if not self._thread.is_alive():
            ray.kill(self._mailbox)
