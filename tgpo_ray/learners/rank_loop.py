"""The training function that Ray Train runs on every rank: a loop over the mailbox's commands."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import torch.distributed as dist

from tgpo_ray.kernels import TokenLoss
from tgpo_ray.learners.learner import Learner, LearnerSpec, Sums
from tgpo_ray.learners.planning import EpisodeKey, MicroBatch
from tgpo_ray.learners.saving import save_checkpoint

if TYPE_CHECKING:
    from tgpo_ray.models import Bucket, WeightTransfer


@dataclass(frozen=True)
class WorkerSpec:
    """The mailbox that a rank asks for commands, and the spec of what it trains."""

    mailbox: Any
    learner: LearnerSpec
    group_id: str


def run_rank(config: dict[str, WorkerSpec]) -> None:
    """Join the present incarnation, load the model, and run commands until `stop`."""
    worker = config["worker"]
    rank = dist.get_rank()
    token = _shared_token()
    context = ray.get_runtime_context()
    start: Any = ray.get(
        worker.mailbox.join.remote(token, rank, context.get_node_id(), os.getpid(), context.current_actor)
    )
    if start is None:
        return
    try:
        rank_loop = RankLoop(worker, rank, token)
    except Exception as error:  # a second load would fail too: returning keeps Ray Train from restarting the ranks
        traceback.print_exc()
        reason = f"learner rank {rank} cannot load {worker.learner.model!r}: {type(error).__name__}: {error}"
        ray.get(worker.mailbox.fail_pending.remote(reason))
        return
    if start.resume_from is not None:
        rank_loop.load(start.resume_from)
    rank_loop.run()


def _shared_token() -> str:
    """Returns the token of this start of the ranks. Rank 0 draws it, because all ranks need the same one."""
    names = [os.urandom(8).hex()]
    dist.broadcast_object_list(names, src=0)
    return names[0]


class RankLoop:
    """The answers of one rank to commands. Each public method is the command of its name."""

    def __init__(self, worker: WorkerSpec, rank: int, token: str) -> None:
        self._mailbox, self._rank, self._token = worker.mailbox, rank, token
        self._learner = Learner(worker.learner)
        self._busy_s, self._since = 0.0, 0.0  # in commands before the present one, which began at `since`

    def run(self) -> None:
        done = 0
        while True:
            command: Any = ray.get(self._mailbox.next_command.remote(self._token, self._rank, done))
            if command is None:  # no command within the mailbox's poll time
                continue
            if command.name == "stop":
                return
            done = command.number
            # the answer has no name here: it would keep references to weights until the next command
            ray.get(
                self._mailbox.reply.remote(self._token, self._rank, done, *self._timed(command.name, command.payload))
            )

    def _timed(self, name: str, payload: object) -> tuple[object, str]:
        self._since = time.monotonic()
        try:
            return self._obey(name, payload)
        finally:
            self._busy_s += time.monotonic() - self._since

    def _obey(self, name: str, payload: object) -> tuple[object, str]:
        """Returns (value, "") or (None, message). An error ends the command and not the rank; the driver decides."""
        try:
            return (getattr(self, name)(payload) if payload is not None else getattr(self, name)()), ""
        except Exception as error:
            traceback.print_exc()
            return None, f"learner rank {self._rank}, {name}: {type(error).__name__}: {error}"

    def ping(self) -> int:
        return self._rank

    def accumulate(self, payload: tuple[list[MicroBatch], TokenLoss]) -> Sums:
        micro_batches, loss = payload
        return self._learner.accumulate(micro_batches, loss)

    def remember_logprobs(self, payload: list[MicroBatch]) -> None:
        self._learner.remember_logprobs(payload)

    def logprobs(self, payload: list[MicroBatch]) -> list[ray.ObjectRef[dict[EpisodeKey, np.ndarray]]]:
        """Returns a reference in a list. Ray would fetch a bare reference in the mailbox, and its numbers with it."""
        logprobs: dict[EpisodeKey, np.ndarray] = {}
        for micro_batch in payload:
            logprobs |= self._learner.logprobs(micro_batch)
        return [ray.put(logprobs)]

    def sampler_gaps(self, payload: list[MicroBatch]) -> list[np.ndarray]:
        return self._learner.sampler_gaps(payload)

    def scale_weights(self, factor: float) -> None:
        self._learner.scale_weights(factor)

    def forget_logprobs(self) -> None:
        self._learner.forget_logprobs()

    def step(self, payload: tuple[float, float]) -> tuple[dict[str, float], dict[str, float], float]:
        """Returns (metrics of the optimizer, summed loss of this rank and its parts, seconds of work)."""
        denominator, lr = payload
        loss_sums = self._learner.take_loss_sums()
        return self._learner.step(denominator, lr), loss_sums, self._take_busy_s()

    def _take_busy_s(self) -> float:
        now = time.monotonic()
        busy_s, self._busy_s, self._since = self._busy_s + now - self._since, 0.0, now
        return busy_s

    def weight_buckets(self) -> list[ray.ObjectRef[Bucket]]:
        return self._learner.weight_buckets()

    def send_weights(self, transfer: WeightTransfer) -> str:
        return self._learner.send_weights(transfer)

    def save(self, payload: tuple[str, dict[str, str]]) -> str:
        """Returns an empty text, or why no rank has a checkpoint."""
        return save_checkpoint(self._learner, self._rank, *payload)

    def load(self, path: str) -> None:
        with _local(path) as folder:
            self._learner.load(folder)

    def export(self, path: str) -> None:
        self._learner.export(path)


@contextlib.contextmanager
def _local(path: str) -> Iterator[Path]:
    """Yields the checkpoint as a local folder. A URI is downloaded."""
    from ray.train import Checkpoint

    with Checkpoint(path).as_directory() as folder:
        yield Path(folder)
