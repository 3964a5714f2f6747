"""Models on the evaluation sets of a suite: answers that are kept with their verdicts, and a table with intervals.

What is sampled once is scored again without a model where a verifier has changed.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.suites.estimates import (
        Estimate,
        bootstrap_means,
        estimate_of,
        majority_right,
        pass_at_k,
    )
    from tgpo_ray.suites.evaluating import evaluate_suite, rescore_suite
    from tgpo_ray.suites.opening import open_suite
    from tgpo_ray.suites.sampling import standing_engines
    from tgpo_ray.suites.suite_config import CandidateConfig, PublishedConfig, SuiteConfig
    from tgpo_ray.suites.tables import write_tables

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "estimates": ["Estimate", "bootstrap_means", "estimate_of", "majority_right", "pass_at_k"],
        "evaluating": ["evaluate_suite", "rescore_suite"],
        "opening": ["open_suite"],
        "sampling": ["standing_engines"],
        "suite_config": ["CandidateConfig", "PublishedConfig", "SuiteConfig"],
        "tables": ["write_tables"],
    },
)
