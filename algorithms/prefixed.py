"""`guidance.prefixes`: guidance on the text of the policy, of the base that it began as, of its teacher, or on both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tgpo_ray.config import Positive, RunView
from tgpo_ray.episode import ORIGIN_BASE, ORIGIN_POLICY, ORIGIN_TEACHER
from tgpo_ray.guidance import GuidanceBatch, diagnostic_sums
from tgpo_ray.kernels import TokenRows

from .gate_config import GateConfig
from .joined_episodes import num_joined_tokens, rollouts
from .taught import Taught, num_tokens
from .taught_config import TaughtConfig
from .token_losses import GuidedPolicyLoss, Metrics, PolicyLoss

if TYPE_CHECKING:
    from tgpo_ray.driver import Metrics as RunMetrics
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.teachers import PrefixShelf, TeacherGroup

PrefixedConfigT = TypeVar("PrefixedConfigT", bound=TaughtConfig)


class PrefixConfig(GateConfig):
    """The keys of `guidance` that say whose text the teacher's tokens follow."""

    prefixes: Literal["policy", "base", "teacher", "mixed"] = Field(
        default="policy",
        description="Whose responses are labelled. policy: those of this iteration; base, teacher: those in "
        "prefix_file, labelled once, and no teacher is started; mixed: the policy's and the file's.",
    )
    prefix_file: str = Field(
        default="", description="Labelled responses of the base or the teacher; `tgpo-ray prefixes` writes them."
    )
    prefixes_per_group: Positive = Field(
        default=8, description="Most responses of prefix_file that join the group of their prompt."
    )

    def rules(self, run: RunView) -> Iterator[str]:
        yield from super().rules(run)
        if self.prefixes == "policy":
            needs = "guidance.prefixes base, teacher or mixed, got policy"
            yield from self.without_use("prefix_file", "prefixes_per_group", needs=needs)
            return
        if not self.prefix_file:
            yield (
                f"guidance.prefix_file: prefixes {self.prefixes} needs a file: `tgpo-ray prefixes JOB.yaml --to FILE` "
                "writes one"
            )
        plain = {"label": "argmax", "normalization": "token", "gate": "none", "diagnostics": "none"}
        for key, value in plain.items():
            if (given := getattr(self, key)) != value:
                yield (
                    f"guidance.{key}: must be {value} with prefixes {self.prefixes}, got {given}: the file has the "
                    "teacher's likeliest tokens and nothing else of it"
                )
        if self.schedule == "balanced":
            yield (
                f"guidance.schedule: balanced weighs guidance against the policy loss of the same tokens, got prefixes "
                f"{self.prefixes}, which are others"
            )

    def last_call(self, iterations: int) -> str:
        if self.labels_from_file:
            return f"never called: its tokens are in {self.prefix_file or 'guidance.prefix_file'}"
        return super().last_call(iterations)

    @property
    def labels_from_file(self) -> bool:
        """Whether the teacher's tokens are all in `prefix_file`."""
        return self.prefixes in ("base", "teacher")


@dataclass(frozen=True)
class PrefixedPolicyLoss(GuidedPolicyLoss):
    """The policy loss on the policy's own responses, and guidance on responses that others wrote.

        L = 1/Z sum_own L_pg,t + w sum_guided m^T_t [ -log pi(y^T_t | x, y_<t) ] / (number of guided tokens)

    The terms of Teacher-Guided Policy Optimization, Eq. 4 and 6, where y_<t of guidance may be of another model: the
    ablation of conditioning. The tokens that others wrote have no policy loss, no KL and no entropy bonus.

    Args:
        guides_policy: the policy's own responses are guided, too.
    """

    guides_policy: bool = False

    fields: ClassVar[tuple[str, ...]] = ("episode.origin",)
    trained_origins: ClassVar[tuple[int, ...]] = (ORIGIN_POLICY, ORIGIN_TEACHER, ORIGIN_BASE)

    def parts(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> dict[str, Tensor]:
        """The parts of `GuidedPolicyLoss`, each 0 on the tokens that it does not cover."""
        own = is_own(rows)
        parts = super().parts(logprobs, entropy, rows)
        for name, values in parts.items():
            if name != "guidance":
                parts[name] = torch.where(own, values, 0.0)
            elif not self.guides_policy:
                parts[name] = torch.where(own, 0.0, values)
        return parts

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Metrics:
        """The metrics of the policy on its own tokens, and those of guidance on the guided ones."""
        own = is_own(rows)
        guided = torch.ones_like(own) if self.guides_policy else ~own
        batch = GuidanceBatch.from_rows(logprobs, covering(rows, guided))
        figures = diagnostic_sums(batch, guidance_weight=self.guidance_weight)
        return PolicyLoss.metrics(self, logprobs, entropy, covering(rows, own)) | figures


def is_own(rows: TokenRows) -> Tensor:
    """(N,) bool, whether the policy wrote the token."""
    return rows.extra["episode.origin"] == ORIGIN_POLICY


def covering(rows: TokenRows, kept: Tensor) -> TokenRows:
    """The rows with a mask of 0 where `kept` (N,) is false."""
    return rows.replace(target_mask=rows.target_mask * kept[:, None])


class Prefixed(Taught[PrefixedConfigT]):
    """The part of TGPO that adds labelled responses of others to groups. With prefixes `policy` it does nothing.

    They come after the rollouts of their group, and are neither rewarded nor compared with them. At w_t = 0 none join.
    Where `prefix_file` has all labels, no teacher is started.
    """

    shelf: PrefixShelf | None = None

    @property
    def prefixing(self) -> PrefixConfig:
        """The section with the keys of this part."""
        return cast("PrefixConfig", self.config.guidance)

    def read_data(self, config: PrefixedConfigT) -> None:
        from tgpo_ray.teachers import PrefixShelf

        guidance = cast("PrefixConfig", config.guidance)
        if guidance.prefixes != "policy":
            self.shelf = PrefixShelf(
                config,
                guidance.prefix_file,
                written_by=guidance.prefixes if guidance.labels_from_file else None,
                per_group=guidance.prefixes_per_group,
            )

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        super().build_scorers(teachers)
        if self.shelf is not None:
            self._own(self.shelf.start())

    def complete(self, group: SampledGroup) -> SampledGroup:
        """The group with its problem's labelled responses, where there are some."""
        if self.shelf is None or self.schedule(self.sampling_iteration) == 0.0:
            return group
        return self.shelf.joined(group)

    def asks_teacher(self, group: SampledGroup) -> bool:
        return not self.prefixing.labels_from_file

    def advantages(self, groups: Sequence[SampledGroup]) -> list[np.ndarray]:
        """(G,) for each group, 0 where others wrote."""
        if self.prefixing.prefixes == "policy":
            return super().advantages(groups)
        own = super().advantages([rollouts(group) for group in groups])
        return [
            np.pad(advantages, (0, len(group.infos) - len(advantages)))  # joined episodes are the last
            for group, advantages in zip(groups, own, strict=True)
        ]

    def denominator(self, groups: Sequence[SampledGroup]) -> float:
        is_own_alone = self.prefixing.prefixes == "policy"
        return super().denominator(groups if is_own_alone else [rollouts(group) for group in groups])

    @property
    def needs_batch(self) -> bool:
        """Whether guidance is divided by a count of tokens that the step's denominator is not."""
        return super().needs_batch or self.shelf is not None

    def per_guided_token(self, groups: Sequence[SampledGroup]) -> float:
        """The factor that makes a sum over an update's guided tokens their mean, whatever the step divides by."""
        others = num_joined_tokens(groups)
        own = 0 if self.prefixing.labels_from_file else num_tokens(groups)
        return self.denominator(groups) / max(1, own + others)

    def check_metrics(self, metrics: RunMetrics) -> RunMetrics:
        """The metrics with `guidance/prefixed_groups`, the share of the groups that labelled responses joined."""
        metrics = super().check_metrics(metrics)
        return metrics if self.shelf is None else metrics | {"guidance/prefixed_groups": self.shelf.reset_counts()}
