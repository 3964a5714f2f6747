"""What a run would need and where it would wait, from the shapes of its models and a card's data sheet.

Nothing is started, and neither Ray nor a weight is loaded.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.costs.actors import Actor, Batch, Engines, Learners, Runners, Scorers, fits
    from tgpo_ray.costs.building import checkpoint_bytes
    from tgpo_ray.costs.cards import KNOWN_CARDS, Card, Cluster, Efficiency, Rates, parse_cluster, shapes_from_file
    from tgpo_ray.costs.estimate import Estimate, Timing, estimate
    from tgpo_ray.costs.lengths import response_lengths
    from tgpo_ray.costs.memory import (
        CARD_SHARE,
        Memory,
        TrainingState,
        activation_memory,
        checkpoint_size,
        loss_memory,
        training_memory,
    )
    from tgpo_ray.costs.shapes import ModelShape, facts_of, shape_of
    from tgpo_ray.costs.work import Work, learner_work, prompt_work, rollout_work, teacher_work, unshared_tokens

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "actors": ["Actor", "Batch", "Engines", "Learners", "Runners", "Scorers", "fits"],
        "building": ["checkpoint_bytes"],
        "cards": ["KNOWN_CARDS", "Card", "Cluster", "Efficiency", "Rates", "parse_cluster", "shapes_from_file"],
        "estimate": ["Estimate", "Timing", "estimate"],
        "lengths": ["response_lengths"],
        "memory": [
            "CARD_SHARE",
            "Memory",
            "TrainingState",
            "activation_memory",
            "checkpoint_size",
            "loss_memory",
            "training_memory",
        ],
        "shapes": ["ModelShape", "facts_of", "shape_of"],
        "work": ["Work", "learner_work", "prompt_work", "rollout_work", "teacher_work", "unshared_tokens"],
    },
)
