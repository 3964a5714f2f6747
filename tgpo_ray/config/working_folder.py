"""Where results go if a configuration does not say it: beside the user's files, or in the user's home within a job."""

from __future__ import annotations

import os
from pathlib import Path

RAY_RESULTS = "~/ray_results"  # Ray's own convention
RUNS = "runs"
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the command of a submitted job
COPIES = "runtime_resources"  # Ray's folder, below that of its session, of the working folders that it has copied


def is_rays_copy(folder: Path | None = None) -> bool:
    """Returns whether `folder`, by default the working folder, is a copy that Ray deletes when it needs the room."""
    return COPIES in (folder or Path.cwd()).parts


def works_for_ray() -> bool:
    """Returns whether the working folder is none of the user's: in a Ray job, or a copy of Ray's."""
    return JOB_VARIABLE in os.environ or is_rays_copy()


def default_storage() -> str:
    """Returns the folder of all runs where `checkpointing.storage_path` is null."""
    return RAY_RESULTS if works_for_ray() else RUNS


def storage_problem(storage_path: str) -> str:
    """Returns why results would be lost at `storage_path`, or an empty text."""
    if "://" in storage_path or not works_for_ray():
        return ""
    folder = Path(storage_path).expanduser()
    fix = f"write a URI or an absolute path of your own, or delete the key, which means {RAY_RESULTS}"
    if not folder.is_absolute():
        return f"{storage_path!r} is relative, and a Ray job runs in a copy that Ray deletes: {fix}"
    if is_rays_copy(folder):
        return f"{storage_path!r} is in a copy of the working folder, which Ray deletes: {fix}"
    return ""
