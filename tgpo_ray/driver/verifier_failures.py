"""What becomes of episodes whose verifier failed: that is not a wrong answer, and a run says what it does with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tgpo_ray.episode import EpisodeInfo, SampledGroup

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

    @classmethod
    def of(cls, config: Any) -> VerifierFailures:
        """As a configuration says. A lone episode has no group to compare with where advantages need one."""
        faults = config.fault_tolerance
        least = 2 if config.group_relative else 1
        return cls(faults.verifier_failures, faults.max_verifier_failure_share, least)

    def passed(self, groups: Iterator[SampledGroup]) -> Iterator[SampledGroup]:
        """The groups to train on, as they come.

        Raises:
            RuntimeError: after the last group, if too many verifications failed.
        """
        num_kept = 0
        for group in groups:
            self.infos.append(group.infos)
            kept = self._kept(group) if self.mode == "drop_episode" else group
            if kept is not None:
                num_kept += 1
                yield kept
        self._check(num_kept)

    def _kept(self, group: SampledGroup) -> SampledGroup | None:
        members = [i for i, info in enumerate(group.infos) if info.outcome not in FAILURES]
        if len(members) == len(group.infos):
            return group
        return group.keeping(members) if len(members) >= self.least else None

    def _check(self, num_kept: int) -> None:
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
        if self.infos and not num_kept:
            raise RuntimeError(
                f"{said}, and fault_tolerance.verifier_failures: drop_episode leaves no group with {self.least} "
                f"episodes to train on: {fix}, or write score_zero"
            )
