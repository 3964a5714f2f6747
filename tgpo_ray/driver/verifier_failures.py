"""What becomes of episodes whose verifier failed: that is not a wrong answer, and a run says what it does with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tgpo_ray.episode import EpisodeInfo, SampledGroup

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig

FAILURES = ("timeout", "error")  # the other outcomes judge the response


@dataclass
class VerifierFailures:
    """`fault_tolerance.verifier_failures`, applied to the groups of one iteration.

    `score_zero` passes everything on. `drop_episode` leaves failed episodes out of advantages, loss and denominators,
    as if they had not been sampled; a group of fewer than `least` others is left out whole. `fail` passes everything
    on and raises above `max_share`.
    """

    mode: str
    max_share: float
    least: int  # episodes that a group must keep
    infos: list[tuple[EpisodeInfo, ...]] = field(default_factory=list)  # of every group that came, all its episodes
    num_passed: int = 0  # groups

    @classmethod
    def of(cls, config: AlgorithmConfig) -> VerifierFailures:
        """As a configuration says. A lone episode has no group to compare with where advantages need one."""
        faults = config.fault_tolerance
        least = 2 if config.group_relative else 1
        return cls(faults.verifier_failures, faults.max_verifier_failure_share, least)

    def passed(self, group: SampledGroup) -> SampledGroup | None:
        """What is trained on of a group; None: nothing."""
        self.infos.append(group.infos)
        members = [i for i, info in enumerate(group.infos) if info.outcome not in FAILURES]
        if self.mode == "drop_episode" and len(members) < len(group.infos):
            if len(members) < self.least:
                return None
            group = group.keeping(members)
        self.num_passed += 1
        return group

    def check(self) -> None:
        """Raises RuntimeError, after the iteration's last group, if too many verifications failed."""
        outcomes = Counter(info.outcome for infos in self.infos for info in infos)
        counts = {outcome: outcomes[outcome] for outcome in FAILURES}
        share = sum(counts.values()) / max(1, outcomes.total())
        said = f"{share:.1%} of the iteration's verifications failed ({counts['timeout']} ran past their deadline, "
        said += f"{counts['error']} crashed)"
        fix = "run `tgpo-ray env check` on the environment, raise env_runners.verify_deadline_s"
        if self.mode == "fail" and share > self.max_share:
            raise RuntimeError(
                f"{said}, above fault_tolerance.max_verifier_failure_share = {self.max_share:g}: {fix}, or the share"
            )
        if self.infos and not self.num_passed:
            raise RuntimeError(
                f"{said}, and fault_tolerance.verifier_failures: drop_episode leaves no group with {self.least} "
                f"episodes to train on: {fix}, or write score_zero"
            )
