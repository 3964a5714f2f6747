"""SamplerWatch, which compares learner and sampler now and then, and ends a run whose engines have other weights."""

from __future__ import annotations

from collections.abc import Sequence

from tgpo_ray.checks import RunningAlgorithm, sampled_probe
from tgpo_ray.episode import SampledGroup

MAX_GAP = {"float32": 0.01, "bfloat16": 0.2}  # nats; preflight's bounds are closer, but end no run of days


class SamplerWatch:
    """The comparison of one micro-batch in every k-th iteration, from the second on: `sampler/gap`.

    On-policy it takes episodes of the iteration, before their update. So it reads the tokens that train, at their real
    lengths. Ahead of the learners, no episode of the iteration is from their weights. Then the runners finish what they
    are sampling, get the newest weights, and sample a few episodes for the comparison.
    """

    def __init__(self, algorithm: RunningAlgorithm, *, ahead: bool) -> None:
        self._algorithm, self._ahead = algorithm, ahead

    def is_due(self, iteration: int) -> bool:
        every = self._algorithm.config.fault_tolerance.sampler_gap_every
        return every > 0 and iteration > 0 and (iteration - 1) % every == 0

    def needs_logprobs(self, iteration: int) -> bool:
        """Whether the episodes of this iteration must carry the sampler's log-probs."""
        return not self._ahead and self.is_due(iteration)

    def needs_rest(self, iteration: int) -> bool:
        """Whether `of_probe` comes before this iteration. The runners must then be idle, with the newest weights."""
        return self._ahead and self.is_due(iteration)

    def of_probe(self) -> dict[str, float]:
        """Returns the metric from episodes that are sampled for it."""
        return self._judged(sampled_probe(self._algorithm).groups)

    def of_groups(self, iteration: int, groups: Sequence[SampledGroup]) -> dict[str, float]:
        """Returns the metric from some of these episodes, or nothing where it is not due.

        Raises:
            RuntimeError: the gap is above `fault_tolerance.max_sampler_gap`.
        """
        if not self.needs_logprobs(iteration):
            return {}
        learners = self._algorithm.learners
        return self._judged(one_micro_batch(groups, learners.token_budget * learners.placement.num_learners))

    def _judged(self, groups: Sequence[SampledGroup]) -> dict[str, float]:
        gaps = self._algorithm.learners.sampler_gaps(groups)
        if not len(gaps):
            return {}
        config, gap = self._algorithm.config, float(gaps.mean())
        bound = config.fault_tolerance.max_sampler_gap or MAX_GAP[config.model.dtype]
        if not gap <= bound:
            raise RuntimeError(
                f"learner and sampler differ by {gap:.3g} nats a token over {len(gaps)} tokens, above "
                f"fault_tolerance.max_sampler_gap = {bound:g}: the engines sample from other weights than those that "
                "train. docs/models.md says which architectures are proven, and `tgpo-ray preflight` compares both "
                "after a change of the weights; the last checkpoint is intact"
            )
        return {"sampler/gap": gap}


def one_micro_batch(groups: Sequence[SampledGroup], max_tokens: int) -> list[SampledGroup]:
    """Returns episodes of the groups with at most this many tokens together, and at least one episode."""
    chosen: list[SampledGroup] = []
    left = max_tokens
    for group in groups:
        taken: list[int] = []
        for index, info in enumerate(group.infos):
            if info.num_policy_tokens and (info.num_tokens <= left or not (chosen or taken)):
                taken.append(index)
                left -= info.num_tokens
        if taken:
            chosen.append(group.keeping(taken))
    return chosen
