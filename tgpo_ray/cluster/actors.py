"""The start, the causes of death and the end of the Ray actors in a pool."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

PYDANTIC_LINK = "For further information visit"
ACTOR_ERRORS = (ActorDiedError, ActorUnavailableError, RayActorError)
ROLES = {
    "EnvRunner": "an EnvRunner",
    "Teacher": "a teacher or reference",
    "RayTrainWorker": "a learner rank",
    "TrainController": "Ray Train's controller of the learners",
    "Mailbox": "the learners' mailbox",
    "TaskQueue": "the runners' task queue",
    "TransferChannel": "the channel of the weight transfer",
    "TraceBook": "the actor with the teachers' traces",
    "PrefixBook": "the actor with the labelled responses of `guidance.prefix_file`",
}
"""What an actor of a class does in a run, as a message names it."""
PLACES = (("process", "pid"), ("node", "ip"))
KILLED = "its process was killed (by hand, or by the kernel for want of memory) or has crashed"


def actor(kind: type, *arguments: object, **options: Any) -> Any:
    """Returns the handle of a new Ray actor of class `kind`; `options` are Ray's (num_cpus, runtime_env, ...)."""
    decorate: Any = ray.remote(**options) if options else ray.remote  # `.options` does not take concurrency groups
    return decorate(kind).remote(*arguments)


def actor_of_driver(kind: type, *arguments: object, **options: Any) -> Any:
    """Returns the handle of a new `actor` on the node of this process, without CPUs.

    Ray would place it on any node, and the loss of that node would end it.
    """
    # hard affinity: with soft=True Ray may still choose another node
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return actor(kind, *arguments, num_cpus=0, scheduling_strategy=here, **options)


class ActorStartError(RuntimeError):
    """An actor did not start. The message names the actor, the cause and what to look at.

    Attributes:
        lost: its process or its node ended, and the constructor had raised nothing: another start may succeed.
    """

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


def root_cause(error: BaseException) -> str:
    """Returns the last line of the innermost exception that Ray wraps, which is the line that a user can act on.

    Of an actor that has died it names the role, the process and the node.
    """
    cause: BaseException = error
    while isinstance(cause, RayTaskError) and isinstance(cause.cause, BaseException) and cause.cause is not cause:
        cause = cause.cause
    if isinstance(cause, ActorDiedError) and (name := re.search(r"class_name: (\S+)", str(cause))):
        return _death(name[1], str(cause))
    # vLLM checks its arguments with pydantic, whose messages end in a link
    lines = [line.strip() for line in str(cause).splitlines() if line.strip() and PYDANTIC_LINK not in line]
    return re.sub(r" \[type=\w+, input_value=.*\]$", "", lines[-1]) if lines else type(cause).__name__


def _death(class_name: str, text: str) -> str:
    """Returns the line on an actor that has died. Ray's `text` names its class, process, address and a long cause."""
    who = ROLES.get(class_name.rpartition(".")[2], f"the actor {class_name}")
    where = [f"{word} {it[1]}" for word, key in PLACES if (it := re.search(rf"\b{key}: (\S+)", text))]
    why = "its node was lost" if "its node has died" in text else KILLED
    return f"{who} has died ({', '.join(where)}): {why}" if where else f"{who} has died: {why}"


def wait_until_started(actors: Sequence[Any], what: str, hint: str, timeout_s: float) -> None:
    """Block until every actor's constructor has returned.

    Raises:
        ActorStartError: a constructor raised an error, or did not return within `timeout_s` seconds.
    """
    try:  # `__ray_ready__` runs after the constructor; `ray.get` raises what the constructor raised
        ray.get([actor.__ray_ready__.remote() for actor in actors], timeout=timeout_s)
    except GetTimeoutError:
        raise ActorStartError(
            f"{what} did not start within {timeout_s:.0f} s (fault_tolerance.start_timeout_s): the cluster may lack "
            f"the resources that it asks for, see `ray status`. {hint}"
        ) from None
    except (*ACTOR_ERRORS, RayTaskError) as error:
        lost = isinstance(error, RayActorError) and not error.actor_init_failed
        raise ActorStartError(f"{what} failed to start: {root_cause(error)}. {hint}", lost=lost) from error


def lost_in_start(actors: Mapping[int, Any], what: str, hint: str, timeout_s: float) -> dict[int, BaseException]:
    """Returns the causes, by the actors' numbers, of those that ended while they started: their node went down.

    Raises:
        ActorStartError: another one could not start.
    """
    lost: dict[int, BaseException] = {}
    for number, handle in actors.items():
        try:
            wait_until_started([handle], what, hint, timeout_s)
        except ActorStartError as error:
            if not error.lost or error.__cause__ is None:
                raise
            lost[number] = error.__cause__
    return lost


def any_died(actors: Sequence[Any], timeout_s: float = 10.0) -> bool:
    """Whether the process of one of the actors has ended. One that does not answer in time counts as alive."""
    answers = [actor.__ray_ready__.remote() for actor in actors]
    for answer in answers and ray.wait(answers, num_returns=len(answers), timeout=timeout_s)[0]:
        try:
            ray.get(answer)
        except ACTOR_ERRORS:
            return True
    return False


def kill(actors: Sequence[Any], *, grace_s: float = 5.0) -> None:
    """Ask each actor to `stop`, wait a little, then end its process."""
    if actors:  # `ray.get` would raise at the first dead actor, and the others would not get their grace
        ray.wait([actor.stop.remote() for actor in actors], num_returns=len(actors), timeout=grace_s)
    for actor in actors:
        ray.kill(actor)
