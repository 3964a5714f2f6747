"""The schedulers of Ray Tune that a study may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tgpo_ray.studies.definition import StudyConfig
from tgpo_ray.studies.points import draw

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

ITERATION = "iteration"  # the time of a run, which every row has
MOST_ITERATIONS = 10**9  # a run ends by itself


def scheduler_of(study: StudyConfig) -> TrialScheduler | None:
    """Returns the scheduler, or None where every run goes to its end."""
    from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

    compared: dict[str, Any] = {"metric": study.metric, "mode": study.mode, "time_attr": ITERATION}
    if study.asha:
        return ASHAScheduler(
            max_t=MOST_ITERATIONS,
            grace_period=study.asha.grace_period,
            reduction_factor=study.asha.reduction_factor,
            **compared,
        )
    if study.pbt:
        rng = np.random.default_rng([study.search_seed, 1])
        mutations = {key: (lambda domain=domain: draw(domain, rng)) for key, domain in study.pbt.mutate.items()}
        return PopulationBasedTraining(
            perturbation_interval=study.pbt.every,
            hyperparam_mutations={"point": {"values": mutations}},
            quantile_fraction=study.pbt.quantile,
            require_attrs=False,  # a run reports only what it has
            **compared,
        )
    return None
