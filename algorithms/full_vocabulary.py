"""The parts that GKD and MiniLLM share: the teacher's head, and a divergence of whole distributions as the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from tgpo_ray.kernels import Divergence, LogitTransform, TokenLoss, TokenRows
from tgpo_ray.models import find_head, load_tokenizer, local_model, logit_transform, num_shared_ids

from .token_losses import Metrics, masked_sum

if TYPE_CHECKING:
    from .taught_config import TaughtConfig

HIDDEN = "teacher.hidden"


@dataclass(frozen=True)
class DivergenceLoss(TokenLoss):
    """Only the generalised Jensen-Shannon divergence from the teacher, at each of the policy's tokens."""

    against: Divergence | None = None

    fields: ClassVar[tuple[str, ...]] = (HIDDEN,)

    @property
    def divergence(self) -> Divergence | None:
        return self.against

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        return torch.zeros_like(rows.mask)  # (N,); the kernel adds the divergence itself

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Metrics:
        return divergence_metrics(rows)


def divergence_metrics(rows: TokenRows) -> Metrics:
    """The mean divergence over the tokens that the teacher answered, and their share."""
    hidden = rows.extra[HIDDEN]  # (N, D), or (N,) where no row was answered
    finite = torch.isfinite(hidden if hidden.ndim == 2 else hidden[:, None])
    answered = finite.all(-1).to(rows.mask.dtype) * rows.mask
    return {
        "guidance/divergence": masked_sum(rows.extra["divergence"].to(rows.mask.dtype), answered),
        "guidance/scored": (answered.sum(), rows.mask.sum()),
    }


@dataclass(frozen=True)
class TeacherHead:
    """The head that turns the teacher's hidden states into a distribution. The learners load it.

    There is one teacher, and its ids from 0 on must mean the same as the policy's. Qwen2.5 and Qwen3 share theirs up to
    the added tokens, which are left out. Hidden states take 4 D bytes a token, 16 KiB at D = 4096. The argmax of TGPO
    takes 4 bytes.
    """

    model: str  # folder
    num_shared: int  # ids that both models have
    transform: LogitTransform  # what the teacher does to its head's logits
    trust_remote_code: bool = False

    @classmethod
    def of(cls, config: TaughtConfig) -> TeacherHead:
        """The head of the teacher "default".

        Raises:
            ValueError: the vocabularies do not begin alike, or the folder's head is not known.
        """
        from transformers import AutoConfig

        teacher = config.teachers["default"]
        policy_vocabulary, teacher_vocabulary = (
            load_tokenizer(model.tokenizer or model.path, trust_remote_code=config.model.trust_remote_code).get_vocab()
            for model in (config.model, teacher)
        )
        path = local_model(teacher.path)
        trust = config.model.trust_remote_code
        find_head(path, trust_remote_code=trust)  # the learners read it at their first update, too late to refuse it
        shape = AutoConfig.from_pretrained(path, trust_remote_code=trust, **teacher.hf_overrides)
        return cls(path, num_shared_ids(policy_vocabulary, teacher_vocabulary), logit_transform(shape), trust)

    def divergence(self, beta: float, weight: float) -> Divergence:
        """The divergence from the teacher, for a loss."""
        return Divergence(beta, weight, self.model, self.num_shared, transform=self.transform)
