"""Joining Ray, starting and ending actors, folders and URIs."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.cluster.actors import (
        ACTOR_ERRORS,
        ActorStartError,
        actor,
        actor_of_driver,
        any_died,
        kill,
        root_cause,
        wait_until_started,
    )
    from tgpo_ray.cluster.connection import connect, has_gpus, node_resources
    from tgpo_ray.cluster.head_watch import watched_head
    from tgpo_ray.cluster.replacing import copy_over, move_into_place, refuse_foreign_folder, staging_folder
    from tgpo_ray.cluster.storage import absolute, copy_folder, is_folder, local_path, read_text

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "actors": [
            "ACTOR_ERRORS",
            "ActorStartError",
            "actor",
            "actor_of_driver",
            "any_died",
            "kill",
            "root_cause",
            "wait_until_started",
        ],
        "connection": ["connect", "has_gpus", "node_resources"],
        "head_watch": ["watched_head"],
        "replacing": ["copy_over", "move_into_place", "refuse_foreign_folder", "staging_folder"],
        "storage": ["absolute", "copy_folder", "is_folder", "local_path", "read_text"],
    },
)
