"""Ray Train ranks that hold weights and optimizer, behind one LearnerGroup."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.learners.batch import TrainEpisode, build_batch
    from tgpo_ray.learners.building import build_learners, learner_spec
    from tgpo_ray.learners.fetching import episodes_of
    from tgpo_ray.learners.group import LearnerGroup
    from tgpo_ray.learners.group_plans import piece_of
    from tgpo_ray.learners.layouts import LAYOUTS
    from tgpo_ray.learners.learner import Learner, LearnerSpec
    from tgpo_ray.learners.planning import Piece, plan_micro_batches
    from tgpo_ray.learners.policy import PolicyModule
    from tgpo_ray.learners.ranks import LearnerError, LearnersRestartedError
    from tgpo_ray.learners.saving import CheckpointError
    from tgpo_ray.learners.strategies import make_strategy, split_configuration
    from tgpo_ray.learners.strategy_options import StrategyOptions
    from tgpo_ray.learners.tokens import Layout
    from tgpo_ray.learners.train_run import Placement, TrainRun

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batch": ["TrainEpisode", "build_batch"],
        "building": ["build_learners", "learner_spec"],
        "fetching": ["episodes_of"],
        "group": ["LearnerGroup"],
        "group_plans": ["piece_of"],
        "layouts": ["LAYOUTS"],
        "learner": ["Learner", "LearnerSpec"],
        "planning": ["Piece", "plan_micro_batches"],
        "policy": ["PolicyModule"],
        "ranks": ["LearnerError", "LearnersRestartedError"],
        "saving": ["CheckpointError"],
        "strategies": ["make_strategy", "split_configuration"],
        "strategy_options": ["StrategyOptions"],
        "tokens": ["Layout"],
        "train_run": ["Placement", "TrainRun"],
    },
)
