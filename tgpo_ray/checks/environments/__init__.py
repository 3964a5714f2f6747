"""The checks of `tgpo-ray env check`, which find faults of an environment before any GPU is rented.

Each check is a function of a `Subject` that returns a `CheckResult`: the measurement, the bound, the fix, and the rows
that fail. Nothing here imports torch, Ray or vLLM.
"""

from tgpo_ray.checks.results import CheckResult, Finding

from .playing import Played, Subject
from .suite import CHECKS, run_checks

__all__ = ["CHECKS", "CheckResult", "Finding", "Played", "Subject", "run_checks"]
