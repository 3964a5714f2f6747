"""The rule for episodes whose verifier failed. A failure is not a wrong answer, and the configuration decides."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tgpo_ray.episode import EpisodeInfo, SampledGroup

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig

FAILURES = ("timeout", "error")  # the other outcomes are verdicts on the response


@dataclass
class VerifierFailures:
    """`fault_tolerance.verifier_failures`, applied to the groups of one iteration.

    `score_zero` passes all episodes on. `drop_episode` leaves failed episodes out of advantages, loss and denominators,
    as if they had not been sampled. It leaves out a whole group if fewer than `least` others remain. `fail` passes all
    episodes on and raises above `max_share`.
    """

    mode: str
    max_share: float
    least: int  # episodes that a group must keep
    infos: list[tuple[EpisodeInfo, ...]] = field(default_factory=list)  # all episodes of every group that arrived
    num_passed: int = 0  # groups

    @classmethod
    def of(cls, config: AlgorithmConfig) -> VerifierFailures:
        """The rule of a configuration."""
        faults = config.fault_tolerance
        least = 2 if config.group_relative else 1  # a group of one has nothing to compare with
        return cls(faults.verifier_failures, faults.max_verifier_failure_share, least)

    def passed(self, group: SampledGroup) -> SampledGroup | None:
        """The part of the group to train on, or None."""
        self.infos.append(group.infos)
        members = [i for i, info in enumerate(group.infos) if info.outcome not in FAILURES]
        if self.mode == "drop_episode" and len(members) < len(group.infos):
            if len(members) < self.least:
                return None
            group = group.keeping(members)
        self.num_passed += 1
        return group

    def check(self) -> None:
        """Raises RuntimeError if too many verifications failed. It is called after the iteration's last group."""
        outcomes = Counter(info.outcome for infos in self.infos for info in infos)
        counts = {outcome: outcomes[outcome] for outcome in FAILURES}
        share = sum(counts.values()) / max(1, outcomes.total())
        summary = f"{share:.1%} of the iteration's verifications failed ({counts['timeout']} ran past their deadline, "
        summary += f"{counts['error']} crashed)"
        fix = "run `tgpo-ray env check` on the environment, raise env_runners.verify_deadline_s"
        if self.mode == "fail" and share > self.max_share:
            raise RuntimeError(
                f"{summary}, above fault_tolerance.max_verifier_failure_share = {self.max_share:g}: {fix}, or the share"
            )
        if self.infos and not self.num_passed:
            raise RuntimeError(
                f"{summary}, and fault_tolerance.verifier_failures: drop_episode leaves no group with {self.least} "
                f"episodes to train on: {fix}, or write score_zero"
            )
