"""The input (`TokenRows`), the base class (`TokenLoss`) and the result (`LossOutput`) of a token-level loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tgpo_ray.kernels.transform import PLAIN, LogitTransform


@dataclass(frozen=True)
class TokenRows:
    """One row for each response token of a micro-batch, without padding.

    Two responses of 3 and 2 tokens and one teacher target give N = 5 rows and K = 2 columns:

        sequence     0 0 0 1 1
        targets      (y_0, yT_0) (y_1, yT_1) ...      yT = 0 where target_mask[:, 1] is 0
        lengths      3 3 3 2 2
    """

    targets: Tensor  # (N, K) int64; column 0 the sampled token, the others teacher targets
    target_mask: Tensor  # (N, K) float; 1.0 on policy-written tokens, in columns from 1 on only where a target exists
    advantages: Tensor  # (N,) float
    old_logprobs: Tensor | None  # (N,) float, finite everywhere; None: strictly on-policy
    sequence: (
        Tensor  # (N,) int64, 0, 1, ...: number of the row's episode; an episode without rows has none, so it is < N
    )
    lengths: Tensor  # (N,) float, tokens of that row's episode that the loss trains on
    extra: Mapping[str, Tensor] = field(default_factory=dict)  # (N, ...) by name, e.g. "teacher.teacher_logprobs"

    def __len__(self) -> int:
        return self.targets.shape[0]

    @property
    def mask(self) -> Tensor:
        """(N,) float: 1.0 on the tokens that the policy wrote."""
        return self.target_mask[:, 0]

    def slice(self, start: int, stop: int) -> TokenRows:
        """Returns rows start..stop as views."""
        return self.map(lambda tensor: tensor[start:stop])

    def to(self, device: torch.device | str) -> TokenRows:
        """Returns the rows on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def replace(self, **changes) -> TokenRows:
        """Returns a copy with other tensors in some fields. An unknown name raises TypeError."""
        return replace(self, **changes)

    def with_extra(self, **tensors: Tensor) -> TokenRows:
        """Returns a copy with more per-row tensors in `extra`, which is the usual result of `TokenLoss.prepare`."""
        return replace(self, extra={**self.extra, **tensors})

    def map(self, change: Callable[[Tensor], Tensor]) -> TokenRows:
        """Returns the rows with the same change on every tensor, e.g. a permutation of the rows."""
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
    """The result of a token-level loss. It is a tuple, because DDP and DeepSpeed search tuples for output tensors."""

    loss: Tensor  # () unnormalised sum over the rows, with gradient
    logprobs: Tensor  # (N, K) detached
    entropy: Tensor | None  # (N,) detached, nats
    rows: TokenRows  # the rows that the loss was computed on: the caller's, or those that `prepare` returned

    def sums(self, loss: TokenLoss) -> dict[str, Tensor]:
        """Returns `total` and the parts of `loss` by name, () each and detached. The parts add up to the total."""
        with torch.no_grad():
            parts = loss.parts(self.logprobs, self.entropy, self.rows)
            if loss.divergence is not None and "divergence" in self.rows.extra:
                parts = parts | {"divergence": loss.divergence.weight * self.rows.extra["divergence"]}
            return {"total": self.loss.detach()} | {name: values.sum() for name, values in parts.items()}


@dataclass(frozen=True)
class Divergence:
    """A term over whole distributions that a loss adds to its token loss; see `fused_divergence`.

    It covers the rows that the policy wrote and that have a `<scorer>.hidden`. The loss must list that field.
    """

    beta: float
    weight: float
    teacher: str  # folder or id of the model whose head turns the hidden states into logits
    num_shared: int  # ids 0 .. num_shared - 1 mean the same to both models; the term is over these ids
    scorer: str = "teacher"
    transform: LogitTransform = PLAIN  # what the teacher does to its head's logits


class TokenLoss:
    """Base class of the losses. A subclass is a small frozen dataclass of plain numbers, so processes can exchange it.

    A subclass defines `parts`, whose sum is the loss, or `__call__` if it has no parts to report. Both get the rows of
    one chunk, in any number and order, so the loss of row i may depend only on row i. A loss that needs the whole
    sequence sets `needs_sequence` and computes in `prepare` what it needs of other rows.
    """

    targets: ClassVar[tuple[str, ...]] = ()
    """Guidance fields that become target columns 1, 2, ..., as "scorer.field", e.g. "teacher.teacher_ids"."""

    fields: ClassVar[tuple[str, ...]] = ()
    """Guidance fields that become `rows.extra` under the same name. They are NaN where the scorer failed.

    `episode.field` is an attribute of the episode itself, e.g. "episode.origin". `group.success` is its group's mean
    reward."""

    needs_sequence: ClassVar[bool] = False

    trained_origins: ClassVar[tuple[int, ...]] = (1,)  # ORIGIN_POLICY: this package imports nothing but torch
    """Origins of the tokens that the loss trains on, as ORIGIN_* of tgpo_ray.episode (policy, teacher traces, ...)."""

    @property
    def row_fields(self) -> tuple[str, ...]:
        """`fields`, and the fields that options of this loss add."""
        return self.fields

    @property
    def divergence(self) -> Divergence | None:
        """The term over whole distributions, or None. Its values are `rows.extra["divergence"]` (N,) in `metrics`."""
        return None

    @property
    def corrects_sampler(self) -> bool:
        """Whether the loss corrects for the sampler with the sampler's log-probs, which then are no `old_logprobs`."""
        return False

    @property
    def needs_entropy(self) -> bool:
        """Whether `parts` and `metrics` get the entropy, which costs one more pass over the logits."""
        return False

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        """Returns the loss (N,) of each row, unnormalised and masked, from logprobs (N, K) and entropy (N,)."""
        parts = self.parts(logprobs, entropy, rows)
        if not parts:
            raise NotImplementedError(
                f"{type(self).__name__} must define parts(logprobs, entropy, rows) -> name: (N,), or __call__ -> (N,)"
            )
        return reduce(torch.add, parts.values())

    def parts(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> dict[str, Tensor]:
        """Returns the terms of the loss by name, (N,) each, weighted and masked. A run reports `loss/<name>`."""
        return {}

    def prepare(self, logprobs: Tensor, rows: TokenRows) -> TokenRows:
        """Returns rows with what the loss needs of whole sequences. It runs without gradient, if `needs_sequence`."""
        return rows

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> dict[str, tuple[Tensor, Tensor]]:
        """Returns detached scalars by name as (sum, count), to be added over micro-batches and ranks, then divided."""
        return {}
