"""Every loss of the methods, with rows that have all it reads."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.algorithms.oracles import random_logits, random_rows
from tgpo_ray.algorithms.full_vocabulary import HIDDEN, DivergenceLoss
from tgpo_ray.algorithms.luffy import LUFFYLoss
from tgpo_ray.algorithms.minillm import MiniLLMLoss
from tgpo_ray.algorithms.prefixed import PrefixedPolicyLoss
from tgpo_ray.algorithms.process_reward import ProcessRewardLoss
from tgpo_ray.algorithms.teacher_ratio import KDRLLoss, TeacherRatioLoss, TrustRegionLoss
from tgpo_ray.algorithms.tgpor import ShapedPolicyLoss
from tgpo_ray.algorithms.token_advantages import TokenAdvantageLoss
from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss, PolicyLoss, SFTLoss, SoftGuidedPolicyLoss
from tgpo_ray.kernels import Divergence, FusedHead, HeadWeights, LossOutput, TokenLoss, TokenRows, token_loss_pass

VOCABULARY, TEACHER_WIDTH = 7, 5
AGAINST = Divergence(beta=0.5, weight=0.7, teacher="", num_shared=VOCABULARY)

LOSSES: dict[str, Callable[[], TokenLoss]] = {
    "sft": SFTLoss,
    "grpo": lambda: PolicyLoss(entropy_weight=0.01),
    "grpo with a reference": lambda: PolicyLoss(kl_weight=0.2, entropy_weight=0.01, per_sequence=True),
    "grpo with importance": lambda: PolicyLoss(importance="sequence", kl_weight=0.2, kl_as="advantage"),
    "tgpo": lambda: GuidedPolicyLoss(guidance_weight=0.3, kl_weight=0.2, entropy_weight=0.01),
    "tgpo by sequence": lambda: GuidedPolicyLoss(guidance_weight=0.3, normalization="sequence", mean_length=3.0),
    "tgpo top-k": lambda: SoftGuidedPolicyLoss(guidance_weight=0.3),
    "tgpo with prefixes": lambda: PrefixedPolicyLoss(guidance_weight=0.3, entropy_weight=0.01),
    "tgpor": lambda: ShapedPolicyLoss(shaping_weight=0.3, signal="match"),
    "rkl": lambda: TeacherRatioLoss(discount=0.5, entropy_weight=0.01),
    "kdrl": lambda: KDRLLoss(distillation_weight=0.3, only_incorrect=True, per_sequence=True),
    "tropd": lambda: TrustRegionLoss(gate="expected", prefix_weight=0.3, entropy_weight=0.01),
    "gkd": lambda: DivergenceLoss(AGAINST),
    "minillm": lambda: MiniLLMLoss(against=AGAINST),
    "luffy": lambda: LUFFYLoss(trace_weight=1.5, entropy_weight=0.01, per_sequence=True),
    "prime": TokenAdvantageLoss,
    "process reward": ProcessRewardLoss,
}


def rows_with_everything() -> TokenRows:
    """Twelve rows of three responses, with two teacher tokens each and a number in every field that a loss asks for."""
    generator = torch.Generator().manual_seed(9)
    numbers = ("advantage.values", "episode.old_logprobs", "reference.teacher_logprobs", "teacher.teacher_logprobs")
    rows = random_rows(num_targets=3)
    rows = rows.with_extra(**{name: torch.randn(12, generator=generator).double() - 2.0 for name in numbers})
    return rows.with_extra(
        **{
            HIDDEN: torch.randn(12, TEACHER_WIDTH, generator=generator).double(),
            "teacher.topk_logprobs": torch.randn(12, 2, generator=generator).double() - 2.0,
            "episode.correct": (rows.sequence == 1).double(),
            "episode.origin": 1.0 + (rows.sequence == 2).double(),
            "episode.uniform": torch.rand(12, generator=generator).double(),
        }
    )


def teacher_head() -> torch.Tensor:
    """(V, D_T) of the teacher whose hidden states the rows hold."""
    return torch.randn(VOCABULARY, TEACHER_WIDTH, generator=torch.Generator().manual_seed(10)).double()


def through_heads(loss: TokenLoss, rows: TokenRows, start: int = 0, stop: int = 12) -> LossOutput:
    """What a learner gets: the loss through the kernel, with the teacher's head where it compares distributions.

    Of the rows start .. stop.
    """
    head = FusedHead(torch.nn.Parameter(torch.eye(VOCABULARY, dtype=torch.float64)))
    hidden = random_logits()[start:stop].clone().requires_grad_()
    return token_loss_pass(head, hidden, rows.slice(start, stop), loss, teacher_head=HeadWeights(teacher_head()))
