"""The Ray Train run of a LearnerGroup: placement of the ranks, storage, and restarts."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgpo_ray.cluster import delete, join
from tgpo_ray.learners.command_mailbox import Mailbox
from tgpo_ray.learners.learner import LearnerSpec
from tgpo_ray.learners.rank_loop import WorkerSpec, run_rank

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.train.torch import TorchTrainer

PLACE_S = 60.0  # Ray Train waits this long for resources, then counts a failure and asks again


@dataclass(frozen=True)
class Placement:
    """The number of ranks, and the Ray resources of each."""

    num_learners: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0


@dataclass(frozen=True)
class TrainRun:
    """The storage of checkpoints and the restarts, which Ray Train does for the ranks."""

    storage_path: str = "runs"
    name: str = "learners"
    keep_checkpoints: int | None = 2
    max_restarts: int = 3
    start_timeout_s: float = 600.0


def make_trainer(mailbox: ActorHandle[Mailbox], spec: LearnerSpec, placement: Placement, run: TrainRun) -> TorchTrainer:
    """Returns the Ray Train run whose ranks wait for the commands of the mailbox."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = placement.num_gpus > 0
    resources = {"CPU": placement.num_cpus, **({"GPU": placement.num_gpus} if gpu else {})}
    return TorchTrainer(
        run_rank,
        train_loop_config={"worker": WorkerSpec(mailbox, spec, uuid.uuid4().hex)},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=placement.num_learners, use_gpu=gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=run.name,
            storage_path=run.storage_path,
            failure_config=FailureConfig(
                max_failures=run.max_restarts,
                # without a limit, ranks that have lost their node would wait for resources without end
                controller_failure_limit=(run.max_restarts + 1) * math.ceil(run.start_timeout_s / PLACE_S),
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=run.keep_checkpoints),
        ),
    )


def forget_checkpoints(run: TrainRun) -> None:
    """Remove what Ray Train has noted of the checkpoints in the run's folder, and leave the checkpoints.

    Ray Train refuses to start again in a folder where a noted checkpoint is gone, or whose notes were cut off when its
    controller died. The ranks ask the mailbox what to load, and not these notes.
    """
    from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

    delete(join(run.storage_path, run.name, CHECKPOINT_MANAGER_SNAPSHOT_FILENAME))
