"""What a token-level loss sees (`TokenRows`), is (`TokenLoss`) and gives back (`LossOutput`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenRows:
    """One row for each response token of a micro-batch, flat; padding never gets here.

    Two responses of 3 and 2 tokens and one teacher target give N = 5 rows and K = 2 columns:

        sequence     0 0 0 1 1
        targets      (y_0, yT_0) (y_1, yT_1) ...      yT = 0 where target_mask[:, 1] is 0
        lengths      3 3 3 2 2
    """

    targets: Tensor  # (N, K) int64; column 0 the sampled token, the others teacher targets
    target_mask: Tensor  # (N, K) float; column 0: 1.0 on policy-written tokens; k: 1.0 where also a target exists
    advantages: Tensor  # (N,) float
    old_logprobs: Tensor | None  # (N,) float, finite everywhere; None: strictly on-policy
    sequence: Tensor  # (N,) int64, index of the episode within the micro-batch
    lengths: Tensor  # (N,) float, tokens of that row's episode that the loss trains on
    extra: Mapping[str, Tensor] = field(default_factory=dict)  # (N, ...) by name, e.g. "teacher.teacher_logprobs"

    def __len__(self) -> int:
        return self.targets.shape[0]

    @property
    def mask(self) -> Tensor:
        """(N,) 1.0 on the tokens that the policy wrote."""
        return self.target_mask[:, 0]

    def slice(self, start: int, stop: int) -> TokenRows:
        """Rows start..stop as views."""
        return self.map(lambda tensor: tensor[start:stop])

    def to(self, device: torch.device | str) -> TokenRows:
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def replace(self, **changes) -> TokenRows:
        """A copy with other tensors in some fields; unknown names fail."""
        return replace(self, **changes)

    def with_extra(self, **tensors: Tensor) -> TokenRows:
        """A copy with more per-row tensors: what `TokenLoss.prepare` usually returns."""
        return replace(self, extra={**self.extra, **tensors})

    def map(self, change: Callable[[Tensor], Tensor]) -> TokenRows:
        """The same change on every tensor, e.g. a permutation of the rows."""
        old_logprobs = None if self.old_logprobs is None else change(self.old_logprobs)
        return TokenRows(
            targets=change(self.targets),
            target_mask=change(self.target_mask),
            advantages=change(self.advantages),
            old_logprobs=old_logprobs,
            sequence=change(self.sequence),
            lengths=change(self.lengths),
            extra={name: change(tensor) for name, tensor in self.extra.items()},
        )


class LossOutput(NamedTuple):
    """A tuple, because DDP and DeepSpeed look for the tensors of a module's output in tuples."""

    loss: Tensor  # () unnormalised sum over the rows, with gradient
    logprobs: Tensor  # (N, K) detached
    entropy: Tensor | None  # (N,) detached, nats
    rows: TokenRows  # what the loss saw: the caller's rows, or those that `prepare` returned

    def sums(self, loss: TokenLoss) -> dict[str, Tensor]:
        """() each, detached: `total`, and under their names the parts of which `loss` is made, which add up to it."""
        with torch.no_grad():
            parts = loss.parts(self.logprobs, self.entropy, self.rows)
            if loss.divergence is not None and "divergence" in self.rows.extra:
                parts = parts | {"divergence": loss.divergence.weight * self.rows.extra["divergence"]}
            return {"total": self.loss.detach()} | {name: values.sum() for name, values in parts.items()}


@dataclass(frozen=True)
class Divergence:
    """What a loss over whole distributions asks for beside its token loss; see `fused_divergence`.

    Rows are those that the policy wrote and whose `<scorer>.hidden` is there; that field must be among the loss's own.
    """

    beta: float
    weight: float
    teacher: str  # folder or id of the model whose head turns the hidden states into logits
    num_shared: int  # ids 0 .. num_shared - 1 mean the same to both models; the others are left out
    scorer: str = "teacher"


class TokenLoss:
    """Base of the losses. A subclass is a small frozen dataclass of plain numbers, so it travels between processes.

    It defines `parts`, whose sum is the loss, or `__call__`, if it has no parts to report. Both get rows of one chunk,
    in any number and order: row i's loss may depend on row i alone. A loss that needs the whole sequence sets
    `needs_sequence` and computes what it needs of the others in `prepare`.
    """

    targets: ClassVar[tuple[str, ...]] = ()
    """Guidance fields that become target columns 1, 2, ...: "scorer.field", e.g. "teacher.teacher_ids"."""

    fields: ClassVar[tuple[str, ...]] = ()
    """Guidance fields that go into `rows.extra` under the same name, not a number where the scorer failed.

    `episode.field` is an attribute of the episode itself, e.g. "episode.origin"."""

    needs_sequence: ClassVar[bool] = False

    trained_origins: ClassVar[tuple[int, ...]] = (1,)  # ORIGIN_POLICY: this package imports nothing but torch
    """Whose tokens `target_mask` keeps, as ORIGIN_* of tgpo_ray.episode: the policy's, the teacher's (traces)."""

    @property
    def row_fields(self) -> tuple[str, ...]:
        """`fields`, and what options of this loss add to them."""
        return self.fields

    @property
    def divergence(self) -> Divergence | None:
        """A term over whole distributions, added row by row; its values are `rows.extra["divergence"]` in `metrics`."""
        return None

    @property
    def corrects_sampler(self) -> bool:
        """Whether the log-probs that the sampler reported are used to correct for it, and are not `old_logprobs`."""
        return False

    @property
    def needs_entropy(self) -> bool:
        """Whether `parts` and `metrics` get the entropy, which costs a pass over the logits."""
        return False

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        """Per-row loss (N,), unnormalised and masked, from logprobs (N, K) and entropy (N,)."""
        parts = self.parts(logprobs, entropy, rows)
        if not parts:
            raise NotImplementedError(
                f"{type(self).__name__} must define parts(logprobs, entropy, rows) -> name: (N,), or __call__ -> (N,)"
            )
        return reduce(torch.add, parts.values())

    def parts(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> dict[str, Tensor]:
        """The terms of the loss by name, (N,) each, weights and mask included; a run reports them as `loss/<name>`."""
        return {}

    def prepare(self, logprobs: Tensor, rows: TokenRows) -> TokenRows:
        """Rows with what the loss needs of whole sequences; called without gradient when `needs_sequence`."""
        return rows

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> dict[str, tuple[Tensor, Tensor]]:
        """Detached scalars by name, as (sum, count): summed over micro-batches and ranks, then divided."""
        return {}
