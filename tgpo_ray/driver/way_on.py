"""What a run says at its end, if it ends early: where it has got to, and the command that goes on from there."""

from __future__ import annotations

import shlex

from tgpo_ray.cluster import join


def way_on(folder: str, checkpoint: str | None) -> str:
    """Returns the sentence for a run in `folder` (a folder or a URI), whose last checkpoint is this one.

    The command needs only the run's folder: the configuration in it has the overrides of the first command line.
    """
    if checkpoint is None:
        return f"no checkpoint was finished in {folder}: start the run again"
    config, target = shlex.quote(join(folder, "config.yaml")), shlex.quote(folder)
    return f"last checkpoint: {checkpoint}; go on with: python -m tgpo_ray.train {config} --resume {target}"
