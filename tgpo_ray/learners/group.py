"""LearnerGroup: data-parallel learners as a Ray Train run, driven by commands through a mailbox.

Ray Train does placement, process groups, restarts and checkpoint storage. The mailbox keeps the loop on the driver.
Where one of the two is lost, the group starts both again, as Ray Train does with ranks. Nothing here is a singleton, so
a policy and a process-reward model can be two groups side by side.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import ray

from tgpo_ray.cluster import join
from tgpo_ray.episode import SampledGroup
from tgpo_ray.kernels import TokenLoss
from tgpo_ray.learners.group_plans import plan_of_groups
from tgpo_ray.learners.learner import LearnerSpec, Sums
from tgpo_ray.learners.ranks import LearnerError, LearnersRestartedError, Ranks, RanksLostError
from tgpo_ray.learners.reduction import losses, reduced
from tgpo_ray.learners.saving import CheckpointError
from tgpo_ray.learners.train_run import Placement, TrainRun, forget_checkpoints

if TYPE_CHECKING:
    from tgpo_ray.learners.planning import EpisodeKey, MicroBatch
    from tgpo_ray.models import Bucket, WeightTransfer

    LogProbs = list[ray.ObjectRef[dict[EpisodeKey, np.ndarray]]]

GRACE_S = 20.0  # for ranks to end after their present command


class _Sent(NamedTuple):
    """A command, and the ranks that got it."""

    ranks: Ranks
    number: int


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
        self._resume_from: str | None = None
        self._pending: list[tuple[_Sent, Callable[[list[Any]], None]]] = []
        self._sums: list[Sums] = []
        self.num_steps = 0  # updates that were asked for
        self._busy_s = 0.0
        self._renewing = threading.Lock()  # a runner that restarts asks for weights from another thread
        self._ranks = Ranks(spec, placement, run)

    def wait_until_ready(self) -> None:
        """Block until every rank holds its model. Restarts up to here are noticed, and commands work again.

        Raises:
            LearnerError: a rank failed, or the ranks did not start within `run.start_timeout_s`.
        """
        placement, timeout_s = self.placement, self.run.start_timeout_s
        ready = False
        try:
            while not ready:
                # a death at this point loses nothing more, and the number of restarts has its limit
                with contextlib.suppress(LearnersRestartedError):
                    ranks = self._ranks
                    with self._surviving(ranks):
                        ranks.accept()
                        ranks.wait(ranks.send("ping", [None] * placement.num_learners), timeout_s)
                        ranks.remember()
                    ready = True
        except TimeoutError:
            share = f"{placement.num_cpus:g} CPUs" + (f" and {placement.num_gpus:g} GPUs" if placement.num_gpus else "")
            raise LearnerError(
                f"the learners did not start within {timeout_s:.0f} s (fault_tolerance.start_timeout_s): the nodes may "
                f"lack {share} for each of the {placement.num_learners} (see `ray status`), or the model loads slowly"
            ) from None

    def roll_back(self) -> None:
        """Have every rank hold the last checkpoint again, or the model as it is on disk where there is none.

        Every group of a run goes back together. Ranks that did not die are started again too, so that no gradient and
        no random state is left of what is to be repeated.
        """
        ranks = self._ranks
        self._pending, self._sums = [], []
        died = True
        with contextlib.suppress(LearnersRestartedError), self._surviving(ranks):
            died = ranks.has_restarted()
        if not died:
            self._renew(ranks, num_restarts=ranks.num_restarts)
        self.wait_until_ready()

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

    def logprobs(self, groups: Sequence[SampledGroup], *, base: bool = False) -> LogProbs:
        """Returns {episode: (T,) log pi(y_t) now} by reference, of each rank; `base`: below adapters, temperature 1."""
        replies = self._wait(self._send("base_logprobs" if base else "logprobs", list(self._plan(groups))))
        return [ref for refs in replies for ref in refs]

    def change_weights(self, *, back: bool = False) -> None:
        """Change every weight that trains, and before the next update take that `back`, to the last bit."""
        self._call("restore_weights" if back else "change_weights")

    def forget_logprobs(self) -> None:
        self._call("forget_logprobs")

    def _plan(
        self, groups: Sequence[SampledGroup], advantages: Sequence[np.ndarray] | None = None
    ) -> list[list[MicroBatch]]:
        return plan_of_groups(groups, advantages, self.placement.num_learners, self.token_budget, self.spec.layout)

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
        self._resume_from = path  # first: ranks that are started in the place of lost ones get it from here
        ranks = self._ranks
        with self._surviving(ranks):
            ranks.set_resume(path)

    def export(self, path: str, *, merge: bool = False) -> None:
        """Write a Hugging Face folder at `path` (a folder or a URI): the model, or the adapters unless `merge`."""
        self._call("export", (path, merge))

    def processes(self) -> list[tuple[str, int]]:
        """Returns (node id, process id) of each rank."""
        return self._ranks.processes()

    # -- commands ------------------------------------------------------------------------------------------------------

    def _call(self, name: str, payload: object = None) -> list[Any]:
        return self._wait(self._send(name, [payload] * self.placement.num_learners))

    def _post(self, name: str, payloads: list[Any], on_reply: Callable[[list[Any]], None]) -> None:
        self._pending.append((self._send(name, payloads), on_reply))

    def _send(self, name: str, payloads: list[Any]) -> _Sent:
        ranks = self._ranks
        with self._surviving(ranks):
            return _Sent(ranks, ranks.send(name, payloads))

    def _drain(self) -> None:
        pending, self._pending = self._pending, []
        for sent, on_reply in pending:
            on_reply(self._wait(sent))

    def _wait(self, sent: _Sent, timeout_s: float = math.inf) -> list[Any]:
        """Returns the replies of the ranks to a command; raises TimeoutError if one is missing after `timeout_s`."""
        with self._surviving(sent.ranks):
            return sent.ranks.wait(sent.number, timeout_s)

    # -- deaths and the end --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _surviving(self, ranks: Ranks) -> Iterator[None]:
        """A block that asks these ranks. If their mailbox or their controller dies, others are started."""
        try:
            yield
        except (LearnersRestartedError, LearnerError):
            self._pending, self._sums = [], []  # the gradients that they belong to are lost
            raise
        except RanksLostError as lost:
            self._pending, self._sums = [], []
            if ranks.num_restarts >= self.run.max_restarts:
                raise LearnerError(
                    f"{lost}, and fault_tolerance.max_learner_restarts ({self.run.max_restarts}) is used up"
                ) from lost
            self._renew(ranks, num_restarts=ranks.num_restarts + 1)
            raise LearnersRestartedError(f"{lost}, and the learners were started from their last checkpoint") from lost

    def _renew(self, ranks: Ranks, *, num_restarts: int) -> None:
        """End these ranks and start others in their place, unless another thread has done so."""
        with self._renewing:
            if self._ranks is not ranks:
                return
            ranks.end(GRACE_S)
            if ranks.running:
                raise LearnerError("the learners' ranks did not end after their mailbox had died")
            forget_checkpoints(self.run)
            run = replace(self.run, max_restarts=self.run.max_restarts - num_restarts)
            accepted = num_restarts - 1  # fewer than there were: only `wait_until_ready` takes notice
            self._ranks = Ranks(self.spec, self.placement, run, self._resume_from, num_restarts, accepted)

    def stop(self, grace_s: float = GRACE_S) -> None:
        """End the ranks: ask them, wait, then kill their processes. A second call is safe.

        The call does not wait for ranks that are still starting or that wait for resources. The mailbox stays and ends
        them later.
        """
        self._ranks.end(grace_s)
