"""Checks of environments, files and running actors, which find faults before a run spends an hour."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.checks.environments import Subject, run_checks
    from tgpo_ray.checks.files import check_files
    from tgpo_ray.checks.models import check_models
    from tgpo_ray.checks.page import PreflightError, print_results, refuse_failed
    from tgpo_ray.checks.prompts import check_environments, left_out
    from tgpo_ray.checks.results import MAX_SHOWN, CheckResult
    from tgpo_ray.checks.running_actors import RunningAlgorithm, check_actors, sampled_probe
    from tgpo_ray.checks.start import check_start, refuse_unshared, storage_facts

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "environments": ["Subject", "run_checks"],
        "files": ["check_files"],
        "models": ["check_models"],
        "page": ["PreflightError", "print_results", "refuse_failed"],
        "prompts": ["check_environments", "left_out"],
        "results": ["CheckResult", "MAX_SHOWN"],
        "running_actors": ["RunningAlgorithm", "check_actors", "sampled_probe"],
        "start": ["check_start", "refuse_unshared", "storage_facts"],
    },
)
