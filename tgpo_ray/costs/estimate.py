"""What a run would need on a cluster and where it would wait, and the split of the cards that waits least."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tgpo_ray.config import AlgorithmConfig, ConfigError, OnPolicyConfig
from tgpo_ray.costs.actors import Actor, Batch, Learners, Runners, fits
from tgpo_ray.costs.building import Shapes, actors_of, batch_of
from tgpo_ray.costs.cards import Cluster

MOST_ACTORS = 512  # of one kind, in the search for a split


@dataclass(frozen=True)
class Timing:
    """Seconds of an iteration for given numbers of actors."""

    stages: tuple[float, ...]  # one for each kind of actor
    sync: float
    iteration: float

    def waits(self) -> tuple[float, ...]:
        """Returns the share of the iteration in which each kind waits."""
        return tuple(1 - min(1.0, seconds / self.iteration) for seconds in self.stages)

    @property
    def slowest(self) -> int:
        return max(range(len(self.stages)), key=self.stages.__getitem__)


@dataclass(frozen=True)
class Estimate:
    """A configuration on a cluster. `actors` are its kinds, in the order of all tuples."""

    cluster: Cluster
    batch: Batch
    actors: tuple[Actor, ...]
    max_staleness: int

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(actor.count for actor in self.actors)

    def cards(self, counts: Sequence[int]) -> float:
        return sum(count * actor.cards for count, actor in zip(counts, self.actors, strict=True))

    def sync_seconds(self) -> float:
        """Returns the seconds of new weights on their way through the host's memory, and over the network."""
        runners = next(actor for actor in self.actors if isinstance(actor, Runners))
        sent = runners.shape.adapters if runners.takes_adapters else runners.shape.parameters
        card, size = self.cluster.card, sent * runners.number_bytes
        across = size / card.network if self.cluster.nodes > 1 else 0.0
        return (2 * size / card.host_link + across) / card.efficiency.link

    def timing(self, counts: Sequence[int]) -> Timing:
        """Returns the seconds of each kind with these numbers of actors."""
        return self._timed(tuple(actor.seconds(count) for count, actor in zip(counts, self.actors, strict=True)))

    def _timed(self, stages: tuple[float, ...]) -> Timing:
        """Returns the iteration of these stages.

        On-policy, scorers read groups while others are written, and learners begin when all are there, because several
        updates share them; with one update they accumulate meanwhile. With staleness all work at the same time.
        """
        learning = sum(s for s, actor in zip(stages, self.actors, strict=True) if isinstance(actor, Learners))
        others = max(s for s, actor in zip(stages, self.actors, strict=True) if not isinstance(actor, Learners))
        streamed = self.max_staleness > 0 or self.batch.updates == 1
        sync = self.sync_seconds()
        return Timing(stages, sync, sync + (max(learning, others) if streamed else learning + others))

    def balanced(self) -> tuple[int, ...] | None:
        """Returns the numbers of actors with the shortest iteration on the cluster's cards, or None if none fit.

        All splits are tried. Of equal ones that with the fewest cards is returned.
        """
        seconds = [dict(self._feasible(actor)) for actor in self.actors]
        best: tuple[float, float, tuple[int, ...]] | None = None
        for counts in self._splits([sorted(each) for each in seconds]):
            stages = tuple(each[count] for each, count in zip(seconds, counts, strict=True))
            found = (self._timed(stages).iteration, self.cards(counts), counts)
            best = found if best is None or found < best else best
        return best[2] if best else None

    def _feasible(self, actor: Actor) -> Iterator[tuple[int, float]]:
        """Yields (count, seconds) of the numbers of actors that fit into memory and have something to do."""
        work = self.batch.episodes // self.batch.updates if isinstance(actor, Learners) else self.batch.groups
        most = min(work, MOST_ACTORS, int(self.cluster.num_cards / actor.cards + 1e-9))
        for count in range(1, most + 1):
            if fits(actor, count, self.cluster):
                yield count, actor.seconds(count)

    def _splits(self, counts: list[list[int]]) -> Iterator[tuple[int, ...]]:
        """Yields the combinations within the cards. The last kind takes all that is left: fewer is never faster."""
        if not all(counts):
            return
        *first, last = counts
        for chosen in itertools.product(*first):
            left = self.cluster.num_cards - self.cards((*chosen, 0)) + 1e-9
            possible = [count for count in last if count * self.actors[-1].cards <= left]
            if possible:
                yield from ((*chosen, count) for count in possible)


def estimate(
    config: AlgorithmConfig,
    cluster: Cluster,
    *,
    mean_prompt: float | None = None,
    mean_response: float | None = None,
    shapes: Shapes | None = None,
) -> Estimate:
    """Returns what the run would need on the cluster. Nothing is started.

    Args:
        mean_prompt, mean_response: tokens; None: a third of the longest.
        shapes: facts of config.json by model, before those of folders and of known models.

    Raises:
        ConfigError: the method samples nothing, a model's shape is not known, or an actor has no part of a card.
    """
    if not isinstance(config, OnPolicyConfig):
        raise ConfigError(
            [f"--cluster: {config.algorithm_path} samples nothing: only methods with rollouts are counted"]
        )
    resolved = config.resolved(gpus=cluster.card.device == "gpu")
    batch = batch_of(resolved, mean_prompt, mean_response)
    actors = tuple(actors_of(resolved, cluster, batch, shapes))
    return Estimate(cluster, batch, actors, resolved.training.max_staleness)
