"""Half-precision weights: logits are summed and kept in float32, so log-probs are those of float64 to 5e-5 nats."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.half_logits import errors, ours, plain, problem, report
from tgpo_ray.kernels import HeadWeights, chunked_logprobs, fused_divergence, matmul_into
from tgpo_ray.kernels.products import WIDENED_BYTES, add_matmul_
from tgpo_ray.models import Want
from tgpo_ray.teachers.backends.chunked_head import head_scores

SHAPE = (48, 64, 4096)


def exact_logprobs(hidden: Tensor, weight: Tensor) -> Tensor:
    """(N, V) in float64, from the same half-precision numbers."""
    return (hidden.double() @ weight.double().t()).log_softmax(-1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logprobs_and_gradients_are_those_of_float64(dtype: torch.dtype):
    hidden, weight, targets = problem(SHAPE, "cpu")
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    exact = plain(hidden.double(), weight.double(), targets)
    kept, rounded = errors(ours(hidden, weight, targets), exact), errors(plain(hidden, weight, targets), exact)
    assert kept["logprob_largest"] < 5e-5  # logits up to 20, float32
    assert rounded["logprob_largest"] > 100 * kept["logprob_largest"]
    # what is left of the gradients' error is their own type, 2^-9 or 2^-12
    for name in ("hidden_gradient", "weight_gradient"):
        assert kept[name] < (2.5e-3 if dtype == torch.bfloat16 else 4e-4)
        assert kept[name] < rounded[name]


def test_entropy_and_several_targets_are_exact_too():
    hidden, weight, _ = problem(SHAPE, "cpu")
    targets = torch.randint(SHAPE[2], (SHAPE[0], 3), generator=torch.Generator().manual_seed(1))
    exact = exact_logprobs(hidden, weight)
    logprobs, entropy = chunked_logprobs(hidden, weight, targets, with_entropy=True, chunk_bytes=10 * SHAPE[2] * 8)
    assert entropy is not None
    torch.testing.assert_close(logprobs.double(), exact.gather(1, targets), rtol=0, atol=5e-5)
    torch.testing.assert_close(entropy.double(), -(exact.exp() * exact).sum(-1), rtol=0, atol=5e-5)


def test_a_teachers_scores_are_exact_too():
    hidden, weight, targets = problem(SHAPE, "cpu")
    head = nn.Linear(SHAPE[1], SHAPE[2], bias=False, dtype=torch.bfloat16)
    head.weight = nn.Parameter(weight)
    with torch.inference_mode():
        found = head_scores(head, hidden, targets[:, 0], Want(argmax=True, logprob=True, top_k=5))
    exact = exact_logprobs(hidden, weight)
    assert found.logprobs is not None and found.topk_ids is not None and found.argmax_ids is not None
    assert abs(torch.from_numpy(found.logprobs).double() - exact.gather(1, targets)[:, 0]).max() < 5e-5
    assert torch.equal(torch.from_numpy(found.topk_ids).long(), exact.topk(5).indices)
    assert torch.equal(torch.from_numpy(found.argmax_ids).long(), exact.argmax(-1))


def test_divergences_of_whole_distributions_are_exact_too():
    hidden, weight, _ = problem((16, 32, 512), "cpu")
    teacher, teacher_weight, _ = problem((16, 48, 512), "cpu")
    values = fused_divergence(
        hidden, HeadWeights(weight), teacher, HeadWeights(teacher_weight), torch.ones(16), beta=0.0
    ).values
    p, q = exact_logprobs(hidden, weight), exact_logprobs(teacher, teacher_weight)
    torch.testing.assert_close(values.double(), (q.exp() * (q - p)).sum(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("inner", "columns"), [(3, 7), (7, 3), (1 << 11, 900), (900, 1 << 11)])
def test_products_in_blocks_are_the_products(inner: int, columns: int):
    """Either factor may be the long one; the last two take several blocks."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(5, inner, generator=generator)
    right = torch.randn(inner, columns, generator=generator).bfloat16()
    assert inner < 900 or 4 * inner * columns > WIDENED_BYTES
    expected = left.double() @ right.double()
    out = torch.full((5, columns), torch.nan)  # what was there does not count
    matmul_into(out, left, right)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-3)
    add_matmul_(out, left, right)
    torch.testing.assert_close(out.double(), 2 * expected, rtol=1e-4, atol=1e-3)


def test_the_benchmark_reports_errors_and_times():
    found = report("cpu", (16, 32, 512), 8, 1)
    assert set(found) == {"shape", "torch", "kept", "rounded", "ms"}
    assert found["kept"]["logprob_largest"] < found["rounded"]["logprob_largest"]  # pyright: ignore
