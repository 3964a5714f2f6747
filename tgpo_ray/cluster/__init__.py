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
        lost_in_start,
        root_cause,
        wait_until_started,
    )
    from tgpo_ray.cluster.claims import CLAIMS, Claim, ClaimedError
    from tgpo_ray.cluster.connection import address_problem, connect, has_gpus, node_resources
    from tgpo_ray.cluster.head_watch import watched_head
    from tgpo_ray.cluster.places import free_bytes, nodes_without, write_problem
    from tgpo_ray.cluster.replacing import copy_over, move_into_place, refuse_foreign_folder, staging_folder
    from tgpo_ray.cluster.storage import (
        absolute,
        copy_folder,
        copy_tree,
        delete,
        files_below,
        is_file,
        is_folder,
        is_uri,
        join,
        local_path,
        name_of,
        names_in,
        opened,
        parent,
        read_bytes,
        read_text,
        replace_file,
        shown,
        write_text,
    )
    from tgpo_ray.cluster.turns import turn_to_start

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
            "lost_in_start",
            "root_cause",
            "wait_until_started",
        ],
        "claims": ["CLAIMS", "Claim", "ClaimedError"],
        "connection": ["address_problem", "connect", "has_gpus", "node_resources"],
        "head_watch": ["watched_head"],
        "places": ["free_bytes", "nodes_without", "write_problem"],
        "replacing": ["copy_over", "move_into_place", "refuse_foreign_folder", "staging_folder"],
        "storage": [
            "absolute",
            "copy_folder",
            "copy_tree",
            "delete",
            "files_below",
            "is_file",
            "is_folder",
            "is_uri",
            "join",
            "local_path",
            "name_of",
            "names_in",
            "opened",
            "parent",
            "read_bytes",
            "read_text",
            "replace_file",
            "shown",
            "write_text",
        ],
        "turns": ["turn_to_start"],
    },
)
