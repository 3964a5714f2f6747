"""The contestants of `loss_kernel.py`. Each takes a `Problem` and returns (dHidden, dWeight) of the TGPO loss."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss
from tgpo_ray.kernels import TokenLoss, TokenRows, fused_token_loss

GEMM_CHUNK_ROWS = {"cpu": 410, "cuda": 1024}  # as ours
LOSS = GuidedPolicyLoss(guidance_weight=2e-3)
ENTROPY_LOSS = GuidedPolicyLoss(guidance_weight=2e-3, entropy_weight=1e-3)
Gradients = tuple[Tensor, Tensor]


@dataclass
class Problem:
    hidden: Tensor  # (N, D)
    weight: Tensor  # (V, D)
    rows: TokenRows  # K = 2

    @classmethod
    def make(cls, num_rows: int, width: int, vocabulary: int, dtype: torch.dtype, device: str) -> Problem:
        generator = torch.Generator(device).manual_seed(0)
        hidden = torch.randn(num_rows, width, generator=generator, device=device).to(dtype)
        weight = (torch.randn(vocabulary, width, generator=generator, device=device) * width**-0.5).to(dtype)
        rows = TokenRows(
            targets=torch.randint(0, vocabulary, (num_rows, 2), generator=generator, device=device),
            target_mask=torch.ones(num_rows, 2, device=device),
            advantages=torch.randn(num_rows, generator=generator, device=device),
            old_logprobs=None,
            sequence=torch.arange(num_rows, device=device) // 64,
            lengths=torch.full((num_rows,), 64.0, device=device),
        )
        return cls(hidden.requires_grad_(), weight.requires_grad_(), rows)

    def gradients(self, loss: Tensor) -> Gradients:
        by_hidden, by_weight = torch.autograd.grad(loss, (self.hidden, self.weight))
        return by_hidden, by_weight

    def gradient_bytes(self) -> int:
        return (self.hidden.numel() + self.weight.numel()) * self.hidden.element_size()


class Gemms:
    """Only the three products: logits, dHidden, dWeight. All calls share one logits buffer."""

    def __init__(self, chunk_rows: int | None = None):
        self.chunk_rows = chunk_rows
        self.buffer: Tensor | None = None

    def __call__(self, problem: Problem) -> None:
        hidden, weight = problem.hidden.detach(), problem.weight.detach()
        size = min(self.chunk_rows or len(hidden), len(hidden))
        if self.buffer is None or self.buffer.shape != (size, len(weight)):
            self.buffer = hidden.new_empty(size, len(weight))
        by_hidden, by_weight = torch.empty_like(hidden), torch.empty_like(weight)
        for start in range(0, len(hidden), size):
            part = hidden[start : start + size]
            logits = self.buffer[: len(part)]
            torch.mm(part, weight.t(), out=logits)
            torch.mm(logits, weight, out=by_hidden[start : start + size])
            torch.addmm(by_weight, logits.t(), part, beta=float(start > 0), out=by_weight)


def ours(problem: Problem, loss: TokenLoss = LOSS) -> Gradients:
    return problem.gradients(fused_token_loss(problem.hidden, problem.weight, problem.rows, loss).loss)


def naive(problem: Problem, loss: TokenLoss = LOSS) -> Gradients:
    """Full logits, log_softmax, autograd."""
    log_p = torch.log_softmax((problem.hidden @ problem.weight.t()).float(), -1)
    entropy = -(log_p.exp() * log_p).sum(-1) if loss.needs_entropy else None
    return problem.gradients(loss(log_p.gather(1, problem.rows.targets), entropy, problem.rows).sum())


def twice(one_target: Callable[[Problem, Tensor], Tensor]) -> Callable[[Problem], Gradients]:
    """A kernel for one target, called for each of the two."""

    def run(problem: Problem) -> Gradients:
        columns = [one_target(problem, targets.contiguous()) for targets in problem.rows.targets.unbind(1)]
        return problem.gradients(LOSS(torch.stack(columns, 1), None, problem.rows).sum())

    return run


def trl_logprobs() -> Callable[[Problem, Tensor], Tensor]:
    kernel = importlib.import_module("trl.kernels.chunked_logprob").ChunkedLogProbFunction
    chunk = importlib.import_module("trl.trainer.utils")._CHUNKED_LOGPROB_CHUNK_SIZE
    return lambda p, targets: kernel.apply(p.hidden, p.weight, None, targets, 1.0, chunk, None, 1.0, ())[0]


def liger_logprobs() -> Callable[[Problem, Tensor], Tensor]:
    """Liger's chunked selective log-probability, the head of its fused linear GRPO loss, in plain torch."""
    base = importlib.import_module("liger_kernel.chunked_loss.fused_linear_ppo").LigerFusedLinearPPOBase
    return lambda p, targets: base.chunk_forward(p.hidden[None], p.weight, targets[None])[0]


def liger_cross_entropy() -> Callable[[Problem, Tensor], Tensor]:
    """Liger's fused linear cross-entropy: a Triton kernel."""
    function = importlib.import_module("liger_kernel.transformers.functional").liger_fused_linear_cross_entropy
    return lambda p, targets: -function(p.hidden, p.weight, targets, reduction="none")


def contestants(device: str) -> tuple[dict[str, Callable[[Problem], Gradients | None]], dict[str, str]]:
    """Contestants by name, and the reasons why others are absent. Each first runs on a tiny problem."""
    entered: dict[str, Callable[[Problem], Gradients | None]] = {
        "gemms": Gemms(),
        "gemms_chunked": Gemms(GEMM_CHUNK_ROWS[device]),
        "ours": ours,
        "ours_with_entropy": lambda problem: ours(problem, ENTROPY_LOSS),
        "naive": naive,
    }
    absent: dict[str, str] = {}
    tiny = Problem.make(8, 16, 64, torch.float32 if device == "cpu" else torch.bfloat16, device)
    others = {
        "trl_twice": trl_logprobs,
        "liger_chunked_twice": liger_logprobs,
        "liger_triton_twice": liger_cross_entropy,
    }
    for name, make in others.items():
        try:
            run = twice(make())
            run(tiny)
            entered[name] = run
        except Exception as error:  # the report has the reason, whatever it is
            absent[name] = f"{type(error).__name__}: {str(error)[:160]}"
    return entered, absent
