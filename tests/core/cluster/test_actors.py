"""The line that a user reads of an actor that has died."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import ray
from ray.core.generated.common_pb2 import ActorDiedErrorContext  # pyright: ignore[reportAttributeAccessIssue]
from ray.exceptions import ActorDiedError

from tgpo_ray.cluster import ActorStartError, lost_in_start, root_cause

LONG = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force is called, or (3) a SIGSEGV."
)


def died(class_name: str, message: str = LONG, **where: Any) -> ActorDiedError:
    context: Any = ActorDiedErrorContext(class_name=class_name, actor_id=b"0" * 16, error_message=message, **where)
    return ActorDiedError(context)


@pytest.mark.parametrize(
    ("class_name", "role"),
    [
        ("Mailbox", "the learners' mailbox"),
        ("TrainController", "Ray Train's controller of the learners"),
        ("EnvRunner", "an EnvRunner"),
        ("TaskQueue", "the runners' task queue"),
        ("SomethingElse", "the actor SomethingElse"),
    ],
)
def test_an_actor_that_has_died_is_named_by_its_role_process_and_node(class_name: str, role: str):
    line = root_cause(died(class_name, pid=4711, node_ip_address="10.0.0.3"))
    assert line.startswith(
        f"{role} has died (process 4711, node 10.0.0.3): its process was killed (by hand, or by the "
    )
    assert len(line) < 200


def test_an_actor_whose_node_was_lost_says_so():
    message = "The actor died because its node has died. Node Id: 0a1b"
    assert root_cause(died("Teacher", message)) == "a teacher or reference has died: its node was lost"


def test_an_actor_of_unknown_fate_keeps_rays_words():
    assert root_cause(ActorDiedError()) == ActorDiedError.BASE_ERROR_MSG


def test_a_start_that_is_lost_with_its_process_is_no_failed_constructor(ray_cluster: Any):
    @ray.remote(num_cpus=0)
    class Starts:
        def __init__(self, how: str) -> None:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "wrong":
                raise ValueError("no such model")

    good, killed, wrong = (Starts.remote(how) for how in ("good", "killed", "wrong"))
    lost = lost_in_start({0: good, 3: killed}, "EnvRunner", "It loads a model", 60.0)
    assert lost.keys() == {3} and isinstance(lost[3], ActorDiedError)
    with pytest.raises(ActorStartError, match=r"EnvRunner failed to start: .*no such model.* It loads a model"):
        lost_in_start({0: good, 1: wrong}, "EnvRunner", "It loads a model", 60.0)
