"""The command `tgpo-ray`, a file for each command."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.cli.cluster_plan import plan_on_cluster
    from tgpo_ray.cli.commands import main

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cluster_plan": ["plan_on_cluster"],
        "commands": ["main"],
    },
)
