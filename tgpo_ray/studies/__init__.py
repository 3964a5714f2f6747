"""Variants times seeds of a run on Ray Tune, and the page that compares them."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.studies.definition import StudyConfig
    from tgpo_ray.studies.loading import load_study
    from tgpo_ray.studies.outcomes import Outcome, folder_of, outcomes, refuse_changed, unfinished
    from tgpo_ray.studies.page import write_page
    from tgpo_ray.studies.points import Point, configs, points, preparations
    from tgpo_ray.studies.running import prepare, run_study

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "definition": ["StudyConfig"],
        "loading": ["load_study"],
        "outcomes": ["Outcome", "folder_of", "outcomes", "refuse_changed", "unfinished"],
        "page": ["write_page"],
        "points": ["Point", "configs", "points", "preparations"],
        "running": ["prepare", "run_study"],
    },
)
