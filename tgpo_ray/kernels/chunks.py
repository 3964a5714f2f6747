"""Chunks of rows through the LM head: logits, log-probabilities of K targets, entropy, in reused buffers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CPU_CHUNK_BYTES = 56 << 20  # 448 rows at V = 32768: every chunk reads and writes all of dWeight, so few are better
CUDA_CHUNK_BYTES = 512 << 20  # 1024 rows at V = 131072: enough to fill the device in each of the three GEMMs
BLOCK_BYTES = 1 << 20  # elementwise passes go block by block, so that a block stays in the L2 cache of a CPU core


def matmul_into(out: Tensor, left: Tensor, right: Tensor) -> None:
    """out = left @ right, where `out` may be float32 and the factors half precision."""
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    elif left.is_cuda:
        torch.mm(left, right, out_dtype=out.dtype, out=out)
    else:
        out.copy_(left @ right)


def add_matmul_(out: Tensor, left: Tensor, right: Tensor) -> None:
    """out += left @ right, where `out` may be float32 and the factors half precision."""
    if out.dtype == left.dtype:
        out.addmm_(left, right)
    elif left.is_cuda:
        torch.addmm(out, left, right, out_dtype=out.dtype, out=out)
    else:
        out.add_(left @ right)


def block_rows(matrix: Tensor) -> int:
    """Rows of `matrix` whose elementwise passes run together: a cache-sized block on a CPU, 64 MiB elsewhere."""
    budget = BLOCK_BYTES if matrix.device.type == "cpu" else BLOCK_BYTES * 64
    return max(1, budget // max(1, matrix.shape[1] * matrix.element_size()))


_spare_buffers: dict[torch.dtype, Tensor] = {}


def take_buffer(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A flat buffer of at least that many elements, nobody else's until it is given back.

    On a CPU the last one is kept: fresh memory of this size comes from the kernel page by page, which took a tenth of
    the loss's time. A GPU's caching allocator does the same by itself.
    """
    size = math.prod(shape)
    spare = _spare_buffers.pop(dtype, None) if device.type == "cpu" else None
    return spare if spare is not None and len(spare) >= size else torch.empty(size, dtype=dtype, device=device)


def give_buffer(buffer: Tensor) -> None:
    """Keep a CPU buffer of the usual size for the next call: the caller must not use it any more."""
    if buffer.device.type == "cpu" and buffer.nbytes <= CPU_CHUNK_BYTES:
        _spare_buffers[buffer.dtype] = buffer


def release_buffers() -> None:
    """Give the kept CPU buffers back to the system."""
    _spare_buffers.clear()


@dataclass
class SoftmaxChunk:
    """n rows after the head. Probabilities are `scale * numerators`, so that no pass is spent on normalising."""

    numerators: Tensor  # (n, V) a view of the reused buffer; the caller may overwrite it
    scale: Tensor | None  # (n, 1); None: 1
    logprobs: Tensor  # (n, K)
    log_probabilities: Tensor | None = None  # (n, V) a view of the second buffer; with entropy only
    entropy: Tensor | None = None  # (n,)


class HeadChunks:
    """Walks hidden states (N, D) through the head weight (V, D) in chunks of rows.

        z = (h W^T + b) / temperature,   p = softmax(z),   H = -sum_v p_v log p_v

    Logits are at least float32. One buffer of (rows, V) is reused by every chunk, a second one only for the entropy.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        temperature: float = 1.0,
        with_entropy: bool = False,
        chunk_bytes: int | None = None,
    ):
        self.hidden = hidden
        self.weight = weight.to(hidden.dtype)  # under autocast the weight may be float32 and hidden half: no copy else
        self.temperature = temperature
        self.dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.bias = None if bias is None else bias.to(self.dtype)
        budget = chunk_bytes or (CUDA_CHUNK_BYTES if hidden.is_cuda else CPU_CHUNK_BYTES)
        self.num_rows = self._chunk_rows(budget, num_buffers=2 if with_entropy else 1)
        shape = (2 if with_entropy else 1, self.num_rows, weight.shape[0])
        self._buffer = take_buffer(shape, self.dtype, hidden.device)
        buffers = self._buffer[: math.prod(shape)].view(shape)
        self._logits, self._probabilities = buffers[0], (buffers[1] if with_entropy else None)

    def bounds(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of every chunk, once; afterwards the buffers are free for the next call."""
        total = self.hidden.shape[0]
        for start in range(0, total, self.num_rows):
            yield start, min(start + self.num_rows, total)
        give_buffer(self._buffer)

    def visit(self, start: int, stop: int, targets: Tensor) -> SoftmaxChunk:
        """Rows start..stop, whose targets are (n, K). Valid until the next visit."""
        logits = self._project(start, stop)
        if self._probabilities is not None:
            return _softmax_with_entropy(logits, self._probabilities[: stop - start], targets)
        if logits.device.type == "cpu":
            chunk = _softmax_in_place(logits, targets)
            if chunk is not None:
                return chunk
            logits = self._project(start, stop)  # overwritten by the attempt
        return _softmax_by_passes(logits, targets)

    def _chunk_rows(self, budget: int, num_buffers: int) -> int:
        total, (vocabulary, _) = self.hidden.shape[0], self.weight.shape
        row_bytes = vocabulary * (self.dtype.itemsize * num_buffers)
        if self.hidden.dtype != self.dtype:
            row_bytes += vocabulary * self.hidden.dtype.itemsize  # the half-precision copy that enters the GEMMs
        rows = max(1, min(total, budget // row_bytes))
        num_chunks = max(1, -(-total // rows))
        return max(1, -(-total // num_chunks))  # chunks of equal size: no short GEMM at the end

    def _project(self, start: int, stop: int) -> Tensor:
        """(n, V) logits of rows start..stop, divided by the temperature, in the reused buffer."""
        logits, hidden = self._logits[: stop - start], self.hidden[start:stop]
        scale_hidden = self.temperature != 1.0 and hidden.dtype == self.dtype  # (n, D) is cheaper to scale than (n, V)
        matmul_into(logits, hidden / self.temperature if scale_hidden else hidden, self.weight.t())
        if self.temperature != 1.0 and not scale_hidden:
            logits.div_(self.temperature)
        if self.bias is not None:
            logits.add_(self.bias / self.temperature)
        return logits


def _softmax_in_place(logits: Tensor, targets: Tensor) -> SoftmaxChunk | None:
    """The quickest way on a CPU: torch's fused softmax over its own input.

    It gives no normaliser, but any one entry does: log Z = z_0 - log p_0, here that of target 0 (the same entry
    whatever K is, so that further targets change no bit). None where some p_0 is too small for that.
    """
    target_logits = logits.gather(1, targets)  # (n, K)
    torch.softmax(logits, -1, out=logits)
    first = logits.gather(1, targets[:, :1])  # (n, 1)
    if bool(first.min() < torch.finfo(first.dtype).tiny * 1e8):
        return None
    log_normalizer = target_logits[:, :1] - first.log()
    return SoftmaxChunk(logits, None, target_logits - log_normalizer)


def _softmax_by_passes(logits: Tensor, targets: Tensor) -> SoftmaxChunk:
    """exp(z - max) in place, sums beside it: exact for any probability."""
    target_logits = logits.gather(1, targets)  # (n, K)
    peaks, sums = [], []
    for block in logits.split(block_rows(logits)):
        peaks.append(block.amax(-1, keepdim=True))
        sums.append(block.sub_(peaks[-1]).exp_().sum(-1, keepdim=True))
    peak, total = torch.cat(peaks), torch.cat(sums)  # (n, 1)
    return SoftmaxChunk(logits, total.reciprocal(), target_logits - peak - total.log())


def _softmax_with_entropy(logits: Tensor, probabilities: Tensor, targets: Tensor) -> SoftmaxChunk:
    """p in `probabilities`, log p in `logits`. The product p log p exists for one block at a time."""
    target_logits = logits.gather(1, targets)
    normalizers, entropies = [], []
    rows = block_rows(logits)
    product = torch.empty_like(logits[:rows])
    for block, out in zip(logits.split(rows), probabilities.split(rows), strict=True):
        peak = block.amax(-1, keepdim=True)
        torch.softmax(block, -1, out=out)
        normalizers.append(peak - out.amax(-1, keepdim=True).log())
        block.sub_(normalizers[-1])
        entropies.append(torch.mul(out, block, out=product[: len(block)]).sum(-1).neg_())
    logprobs = target_logits - torch.cat(normalizers)
    return SoftmaxChunk(probabilities, None, logprobs, log_probabilities=logits, entropy=torch.cat(entropies))


@torch.no_grad()
def chunked_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    with_entropy: bool = False,
    chunk_bytes: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities (N, K) of targets (N, K) and, if asked for, entropies (N,) in nats; no gradient.

    Args:
        hidden: (N, D) hidden states, each of the position before its target.
        weight: (V, D) of the LM head; `bias` (V,).
        targets: (N, K) int64 token ids in [0, V).
        chunk_bytes: budget of the logits buffers; None: 56 MiB on a CPU, 512 MiB on a GPU.
    """
    check_head_inputs(hidden, weight, bias, targets, temperature)
    with torch.autocast(hidden.device.type, enabled=False):
        chunks = HeadChunks(
            hidden, weight, bias, temperature=temperature, with_entropy=with_entropy, chunk_bytes=chunk_bytes
        )
        logprobs = torch.empty(targets.shape, dtype=chunks.dtype, device=hidden.device)
        entropy = logprobs.new_empty(len(targets)) if with_entropy else None
        for start, stop in chunks.bounds():
            chunk = chunks.visit(start, stop, targets[start:stop])
            logprobs[start:stop] = chunk.logprobs
            if entropy is not None and chunk.entropy is not None:
                entropy[start:stop] = chunk.entropy
    return logprobs, entropy


def check_head_inputs(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float) -> None:
    """Raise ValueError on shapes that do not fit, on targets outside the vocabulary, on a temperature <= 0."""
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden must be (N, D) and weight (V, D), got {tuple(hidden.shape)} and {tuple(weight.shape)}: "
            "select the response rows and flatten them first"
        )
    vocabulary = weight.shape[0]
    if bias is not None and bias.shape != (vocabulary,):
        raise ValueError(f"bias must be (V,) = ({vocabulary},), got {tuple(bias.shape)}")
    if targets.ndim != 2 or targets.shape[0] != hidden.shape[0] or targets.shape[1] < 1:
        raise ValueError(
            f"targets must be (N, K) with N = {hidden.shape[0]} rows and K >= 1, got {tuple(targets.shape)}: "
            "one row for each hidden state"
        )
    if not temperature > 0.0:
        raise ValueError(f"temperature must be > 0, got {temperature}: greedy decoding has no log-probabilities")
    if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= vocabulary):
        wrong = targets[(targets < 0) | (targets >= vocabulary)][0]
        raise ValueError(
            f"target {int(wrong)} is outside [0, {vocabulary}): put 0 where target_mask is 0, "
            "and map teacher ids to the policy's vocabulary first"
        )
