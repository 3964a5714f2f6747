"""Matrix products of half-precision factors whose sums are formed and kept in float32."""

from __future__ import annotations

import torch
from torch import Tensor

WIDENED_BYTES = 4 << 20  # of a half-precision factor on a CPU, in float32


def matmul_into(out: Tensor, left: Tensor, right: Tensor) -> None:
    """Write left @ right into `out`, which may be float32 where a factor is half precision.

    The sum is then formed and kept in float32: rounded to the 8 bits of bfloat16, a logit of 20 is off by up to 0.06.
    """
    if out.dtype == left.dtype == right.dtype:
        torch.mm(left, right, out=out)
    elif left.is_cuda:  # `out_dtype` exists on CUDA only
        torch.mm(left, right, out_dtype=out.dtype, out=out)
    else:
        _multiply_in_blocks(out, left, right, keep=False)


def add_matmul_(out: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to `out`, which may be float32 where a factor is half precision."""
    if out.dtype == left.dtype == right.dtype:
        out.addmm_(left, right)
    elif left.is_cuda:
        torch.addmm(out, left, right, out_dtype=out.dtype, out=out)
    else:
        _multiply_in_blocks(out, left, right, keep=True)


def _multiply_in_blocks(out: Tensor, left: Tensor, right: Tensor, *, keep: bool) -> None:
    """The product on a CPU in the precision of `out` (n, m), whose right factor is widened block by block.

    Args:
        keep: add to what `out` holds.
    """
    left = left.to(out.dtype)
    (inner, columns), beta = right.shape, float(keep)
    size = max(1, WIDENED_BYTES // (out.itemsize * max(1, min(inner, columns))))
    if columns >= inner:  # logits: (n, D) @ (D, V)
        for start in range(0, columns, size):
            out[:, start : start + size].addmm_(left, right[:, start : start + size].to(out.dtype), beta=beta)
        return
    for start in range(0, inner, size):  # the gradient of hidden states: (n, V) @ (V, D)
        block = right[start : start + size].to(out.dtype)
        out.addmm_(left[:, start : start + size], block, beta=beta if start == 0 else 1.0)


def gradient_factor(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the gradient of logits (n, V) as it enters the products with factors of `dtype`.

    A GPU's products take factors of one type. On a CPU it stays as it is, and the products are in its precision.
    """
    return matrix.to(dtype) if matrix.is_cuda else matrix
