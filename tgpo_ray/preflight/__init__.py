"""Preflight: what can be known to be wrong before an hour of computing has been spent."""

from tgpo_ray.preflight.live import check_actors
from tgpo_ray.preflight.page import PreflightError, print_results, refuse_failed
from tgpo_ray.preflight.static import check_files

__all__ = ["PreflightError", "check_actors", "check_files", "print_results", "refuse_failed"]
