"""Ranks: one Ray Train run of the learners, the mailbox that commands it, and the thread in which it runs.

Ray Train restarts ranks that die. What it cannot survive is the loss of its own controller or of the mailbox. Then this
object is spent, and the group makes another one.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import Any

import ray
from ray.util import remove_placement_group

from tgpo_ray.cluster import ACTOR_ERRORS, actor_of_driver, any_died, root_cause
from tgpo_ray.learners.command_mailbox import Mailbox
from tgpo_ray.learners.learner import LearnerSpec
from tgpo_ray.learners.train_run import Placement, TrainRun, make_trainer

POLL_S = 2.0
KILL_S = 60.0  # Ray Train needs this long to notice that its ranks were killed


class LearnersRestartedError(RuntimeError):
    """The ranks were restarted from the last checkpoint. Pending commands did not happen."""


class LearnerError(RuntimeError):
    """A rank has failed on a command, or Ray Train has given up. The message has the cause."""


class RanksLostError(RuntimeError):
    """The mailbox or Ray Train's controller has died, and nobody commands these ranks. The message says which."""


class Ranks:
    """The ranks of one Ray Train run. Every method waits for the mailbox.

    Args:
        resume_from: the checkpoint that the ranks load at their start, or None for the model as it is on disk.
        num_restarts: restarts of the group before this run. Those that Ray Train makes are counted on.
        accepted: the number of restarts that the caller has taken notice of, see `accept`.

    Raises (all methods that ask the mailbox):
        RanksLostError: the mailbox or the controller has died.
    """

    def __init__(
        self,
        spec: LearnerSpec,
        placement: Placement,
        run: TrainRun,
        resume_from: str | None = None,
        num_restarts: int = 0,
        accepted: int = 0,
    ) -> None:
        self._num_ranks, self.num_restarts, self._accepted = placement.num_learners, num_restarts, accepted
        # every rank has a poll open, and each needs a slot of the actor, beside the driver's own calls
        self._mailbox = actor_of_driver(Mailbox, self._num_ranks, resume_from, num_restarts, max_concurrency=1000)
        self._handles: list[Any] = []  # of the ranks, and their placement group: see `remember`
        self._placement: Any = None
        self._error: BaseException | None = None
        self._stopped = False
        arguments = (spec, placement, run)
        self._thread = threading.Thread(target=self._fit, args=arguments, name=f"{run.name}-fit", daemon=True)
        self._thread.start()

    def _fit(self, spec: LearnerSpec, placement: Placement, run: TrainRun) -> None:
        """Run Ray Train for the life of the ranks. Outside the main thread it leaves SIGINT to the driver."""
        try:
            make_trainer(self._mailbox, spec, placement, run).fit()
        except BaseException as error:
            self._error = error
        if not ray.is_initialized():  # the driver has shut Ray down, and any remote call would start a new cluster
            return
        with contextlib.suppress(*ACTOR_ERRORS):
            if self._stopped:
                ray.kill(self._mailbox)
            elif self._error is not None and not isinstance(self._error, ACTOR_ERRORS):
                ray.get(self._mailbox.fail_pending.remote(root_cause(self._error)))

    @property
    def running(self) -> bool:
        """Whether Ray Train's run goes on."""
        return self._thread.is_alive()

    # -- commands ------------------------------------------------------------------------------------------------------

    def send(self, name: str, payloads: list[Any]) -> int:
        """Returns the number of the command that it posts."""
        return self._ask("post", name, payloads, self._accepted)

    def wait(self, number: int, timeout_s: float = math.inf) -> list[Any]:
        """Returns the replies of the ranks to a command; raises TimeoutError if one is missing after `timeout_s`.

        Raises:
            LearnersRestartedError: the ranks were restarted before all of them had answered.
            LearnerError: a rank raised an error, or Ray Train's run has ended.
        """
        ref, end = self._mailbox.result.remote(number), time.monotonic() + timeout_s
        # no rank answers after Ray Train's run has ended, so its thread is checked between the waits
        while not ray.wait([ref], timeout=min(POLL_S, timeout_s))[0]:
            if time.monotonic() > end:
                raise TimeoutError
            self._check()
        status, value = self._fetched(ref)
        if status == "done":
            return value
        if status == "error" and any_died(self._ask("ranks")):
            # a rank died within a collective, and another answered with an error of its connection to it
            with contextlib.suppress(LearnersRestartedError):
                self.wait(self.send("ping", [None] * self._num_ranks))  # it ends at the restart
            status = "restarted"
        if status == "restarted":
            self.num_restarts = self._ask("restarts")
            raise LearnersRestartedError("the learners have died and were restarted from their last checkpoint")
        raise LearnerError(value) from self._error

    def accept(self) -> None:
        """Take notice of all restarts so far. Before that, every command after a restart raises an error.

        So a restart that happened while no command was pending cannot pass unseen.
        """
        self._accepted = self.num_restarts = self._ask("restarts")

    def has_restarted(self) -> bool:
        """Returns whether the ranks were restarted since `accept`."""
        return self._ask("restarts") > self._accepted

    def set_resume(self, path: str | None) -> None:
        """Set the checkpoint that restarted ranks load."""
        self._ask("set_resume", path)

    def processes(self) -> list[tuple[str, int]]:
        """Returns (node id, process id) of each rank."""
        return self._ask("processes")

    def remember(self) -> None:
        """Note what the ranks hold of the cluster, for the time when no mailbox can say it or no controller ends it."""
        self._handles, self._placement = self._ask("ranks"), self._ask("placement")

    def _ask(self, method: str, *arguments: object) -> Any:
        return self._fetched(getattr(self._mailbox, method).remote(*arguments))

    def _fetched(self, ref: Any) -> Any:
        try:
            return ray.get(ref)
        except ACTOR_ERRORS as error:
            raise RanksLostError("the learners' mailbox has died") from error

    def _check(self) -> None:
        """Raises an error if Ray Train's run has ended."""
        if self._thread.is_alive():
            return
        if isinstance(self._error, ACTOR_ERRORS):
            raise RanksLostError("Ray Train's controller of the learners has died") from self._error
        cause = root_cause(self._error) if self._error else "no error was reported"
        raise LearnerError(f"the learners' Ray Train run has ended: {cause}") from self._error

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self, grace_s: float) -> None:
        """End the ranks: ask them, wait, then kill their processes. A second call is safe.

        The call does not wait for ranks that are still starting or that wait for resources. The mailbox stays and ends
        them later.
        """
        self._stopped = True
        ranks = self._handles
        with contextlib.suppress(*ACTOR_ERRORS):
            ranks = ray.get(self._mailbox.stop.remote())
        self._thread.join(grace_s)
        if self._thread.is_alive() and ranks:  # they hang; Ray Train restarts them, and `join` ends the new ones
            for rank in ranks:
                ray.kill(rank)
            self._thread.join(KILL_S)
        if not self._thread.is_alive():
            if isinstance(self._error, ACTOR_ERRORS):  # the controller has died, and ends nothing of its own
                for rank in self._handles:
                    ray.kill(rank)
                if self._placement is not None:
                    remove_placement_group(self._placement)
            ray.kill(self._mailbox)
