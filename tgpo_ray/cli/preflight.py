"""The checks that `tgpo-ray preflight` runs."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from tgpo_ray.checks import check_actors, check_files

if TYPE_CHECKING:
    from tgpo_ray.checks import CheckResult
    from tgpo_ray.config import AlgorithmConfig


def all_results(config: AlgorithmConfig, *, with_actors: bool) -> list[CheckResult]:
    """Returns the results for files and, if those pass, for the actors of a run, which start and end here."""
    from tgpo_ray.cluster import connect, has_gpus

    if not with_actors:
        return list(check_files(config.resolved(gpus=False)))
    owns_ray = connect(config.ray)
    try:
        results = list(check_files(config.resolved(gpus=has_gpus())))
        if not any(result.failed for result in results):
            results += _of_actors(config)
        return results
    finally:
        if owns_ray:
            import ray

            ray.shutdown()


def _of_actors(config: AlgorithmConfig) -> list[CheckResult]:
    with tempfile.TemporaryDirectory(prefix="tgpo-ray-") as folder:
        algorithm = config.get_algo_class()(config, run_folder=os.path.join(folder, "run"))
        try:
            return list(check_actors(algorithm))
        finally:
            algorithm.stop()
