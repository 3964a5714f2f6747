"""How far half-precision weights take log-probs and gradients from float64, and what float32 logits cost, as JSON.

    python benchmarks/half_logits.py                  N=512 D=1024 V=32768 bfloat16 on one CPU thread
    python benchmarks/half_logits.py --device cuda    N=8192 D=4096 V=131072 (not run yet)

Inputs are the same bfloat16 numbers for all. `kept` is what the package does: logits are summed and kept in float32.
`rounded` rounds them to the weights' type, as `hidden @ weight.T` does. The errors are those of log-probs of random
tokens in nats, and of the gradients of the summed loss, relative to the norm. float64 takes the first `--rows` rows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.reports import print_report
from tgpo_ray.kernels import TokenLoss, TokenRows, chunked_logprobs, fused_token_loss, matmul_into

SHAPES = {"cpu": (512, 1024, 32768), "cuda": (8192, 4096, 131072)}
LOGIT_SIZE = 4.0  # standard deviation; the largest of a row is then near 20, as of a trained model


class LikelihoodLoss(TokenLoss):
    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        return -logprobs[:, 0]


def problem(shape: tuple[int, int, int], device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Returns hidden states (N, D), head (V, D), tokens (N, 1)."""
    rows, width, vocabulary = shape
    generator = torch.Generator(device).manual_seed(0)
    options = {"generator": generator, "device": device}
    hidden = torch.randn(rows, width, **options).bfloat16()
    weight = (torch.randn(vocabulary, width, **options) * (LOGIT_SIZE / width**0.5)).bfloat16()
    return hidden, weight, torch.randint(vocabulary, (rows, 1), **options)


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Returns log-probs (N, 1) and the gradients of their negative sum, by autograd in the inputs' own type."""
    hidden, weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    logits = hidden @ weight.t()  # (N, V), rounded to the inputs' type
    logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1).gather(1, targets)
    return logprobs.detach(), *torch.autograd.grad(-logprobs.sum(), (hidden, weight))


def ours(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    hidden, weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    ones = torch.ones(len(hidden), device=hidden.device)
    rows = TokenRows(targets, ones[:, None], ones, None, torch.zeros_like(targets[:, 0]), ones)
    output = fused_token_loss(hidden, weight, rows, LikelihoodLoss())
    return output.logprobs, *torch.autograd.grad(output.loss, (hidden, weight))


def errors(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> dict[str, float]:
    gap = (found[0].double() - exact[0]).abs()
    relative = [float((a.double() - b).norm() / b.norm()) for a, b in zip(found[1:], exact[1:], strict=True)]
    named = {"logprob_mean": float(gap.mean()), "logprob_largest": float(gap.max())}
    named |= {"hidden_gradient": relative[0], "weight_gradient": relative[1]}
    return {name: float(f"{value:.2g}") for name, value in named.items()}


def seconds(run: Callable[[], object], device: str, rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):  # the first warms up
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def timed(hidden: Tensor, weight: Tensor, targets: Tensor, device: str, rounds: int) -> dict[str, float]:
    """Returns the least milliseconds of each way."""
    out = torch.empty(len(hidden), len(weight), device=device)
    wide = hidden.float(), weight.float()
    ways: dict[str, Callable[[], object]] = {
        "logits, rounded to bfloat16": lambda: hidden @ weight.t(),
        "logits, kept in float32": lambda: matmul_into(out, hidden, weight.t()),
        "logits of float32 weights": lambda: torch.mm(wide[0], wide[1].t(), out=out),
        "log-probs": lambda: chunked_logprobs(hidden, weight, targets),
        "log-probs of float32 weights": lambda: chunked_logprobs(*wide, targets),
        "loss and gradients": lambda: ours(hidden, weight, targets),
        "loss and gradients of float32 weights": lambda: ours(*wide, targets),
    }
    return {name: round(1e3 * seconds(run, device, rounds), 1) for name, run in ways.items()}


def report(device: str, shape: tuple[int, int, int], num_exact: int, rounds: int) -> dict[str, object]:
    """Returns the figures of one device."""
    hidden, weight, targets = problem(shape, device)
    few, ids = hidden[:num_exact], targets[:num_exact]
    exact = plain(few.double(), weight.double(), ids)
    return {
        "shape": dict(zip("NDV", shape, strict=True)),
        "torch": torch.__version__,
        "kept": errors(ours(few, weight, ids), exact),
        "rounded": errors(plain(few, weight, ids), exact),
        "ms": timed(hidden, weight, targets, device, rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", type=int, nargs=3, metavar=("N", "D", "V"))
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    rows, width, vocabulary = arguments.shape or SHAPES[arguments.device]
    found = report(arguments.device, (rows, width, vocabulary), arguments.rows, arguments.rounds)
    print_report(found, arguments.out)


if __name__ == "__main__":
    main()
