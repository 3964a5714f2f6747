"""Logits, log-probabilities of K targets and entropy of rows, chunk by chunk through the LM head in reused buffers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tgpo_ray.kernels.products import matmul_into
from tgpo_ray.kernels.transform import PLAIN, LogitTransform

CPU_CHUNK_BYTES = 56 << 20  # 448 rows at V = 32768: each reads and writes all of dWeight, so few chunks are better
CUDA_CHUNK_BYTES = 512 << 20  # 1024 rows at V = 131072: enough to fill the device in each of the three GEMMs
BLOCK_BYTES = 1 << 20  # elementwise passes go block by block, and a block fits the L2 cache of a CPU core
LEAST_LOGPROB = -1e4  # where exp is 0 in every precision: p log p is then 0, and 0 * -inf would be NaN


def block_rows(matrix: Tensor) -> int:
    """Returns how many rows of `matrix` (n, V) an elementwise pass takes at a time: 1 MiB on a CPU, else 64 MiB."""
    budget = BLOCK_BYTES if matrix.device.type == "cpu" else BLOCK_BYTES * 64
    return max(1, budget // max(1, matrix.shape[1] * matrix.element_size()))


_spare_buffers: dict[torch.dtype, Tensor] = {}


def chunk_budget(hidden: Tensor, chunk_bytes: int | None) -> int:
    """Returns the bytes of the logits buffers: `chunk_bytes`, or the default of the device of `hidden`."""
    return chunk_bytes or (CUDA_CHUNK_BYTES if hidden.is_cuda else CPU_CHUNK_BYTES)


def take_buffer(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns a flat buffer of at least that many elements. It is the caller's until `give_buffer`.

    On a CPU the last buffer is reused. The operating system gives fresh memory of this size page by page, which takes a
    tenth of the loss's time. The caching allocator of a GPU reuses memory by itself.
    """
    size = math.prod(shape)
    # popped, not read: a second user of the same dtype, such as a nested call, must get memory of its own
    spare = _spare_buffers.pop(dtype, None) if device.type == "cpu" else None
    return spare if spare is not None and len(spare) >= size else torch.empty(size, dtype=dtype, device=device)


def give_buffer(buffer: Tensor) -> None:
    """Keep a CPU buffer of the usual size for the next call. The caller must not use it afterwards."""
    if buffer.device.type == "cpu" and buffer.nbytes <= CPU_CHUNK_BYTES:
        _spare_buffers[buffer.dtype] = buffer


def release_buffers() -> None:
    """Free the CPU buffers that are kept for the next call."""
    _spare_buffers.clear()


@dataclass
class SoftmaxChunk:
    """n rows after the head. Probabilities are `scale * numerators`, so that normalising costs no pass."""

    numerators: Tensor  # (n, V) view of the reused buffer; the caller may overwrite it
    scale: Tensor | None  # (n, 1); None: 1
    logprobs: Tensor  # (n, K)
    log_probabilities: Tensor | None = None  # (n, V) view of the second buffer; only with entropy
    entropy: Tensor | None = None  # (n,)
    slope: Tensor | None = None  # (n, V) view of a further buffer: 1 - (logit / cap)^2, only with a cap


class HeadChunks:
    """The rows of hidden states (N, D) through the head weight (V, D), chunk by chunk.

        z = transform(h W^T + b) / temperature,   p = softmax(z),   H = -sum_v p_v log p_v

    Logits are at least float32. Every chunk reuses one buffer of (rows, V). The entropy needs a second one, and so does
    the slope of a soft cap.

    Attributes:
        temperature: what a gradient on z is divided by on its way to h W^T + b. It contains the scale of the logits.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        temperature: float = 1.0,
        transform: LogitTransform = PLAIN,
        with_entropy: bool = False,
        with_slope: bool = False,
        chunk_bytes: int | None = None,
    ):
        self.hidden = hidden
        self.weight = weight.to(hidden.dtype)  # a copy only under autocast, where the weight may be float32
        self.temperature = transform.temperature(temperature)
        self._transform, self._sampling_temperature = transform, temperature
        self._divisor = transform.divisor(temperature)
        self.dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.bias = None if bias is None else bias.to(self.dtype)
        with_slope = with_slope and transform.cap is not None
        num_buffers = 1 + with_entropy + with_slope
        self.num_rows = self._chunk_rows(chunk_budget(hidden, chunk_bytes), num_buffers)
        shape = (num_buffers, self.num_rows, weight.shape[0])
        self._buffer = take_buffer(shape, self.dtype, hidden.device)
        buffers = self._buffer[: math.prod(shape)].view(shape)
        self._logits, self._probabilities = buffers[0], (buffers[1] if with_entropy else None)
        self._slopes = buffers[-1] if with_slope else None

    def bounds(self) -> Iterator[tuple[int, int]]:
        """Yields (start, stop) of every chunk, once. Afterwards the buffers are free for the next call."""
        total = self.hidden.shape[0]
        for start in range(0, total, self.num_rows):
            yield start, min(start + self.num_rows, total)
        give_buffer(self._buffer)

    def visit(self, start: int, stop: int, targets: Tensor) -> SoftmaxChunk:
        """Returns rows start..stop, whose targets are (n, K). The result is valid until the next visit."""
        chunk = self._softmax(start, stop, targets)
        if self._slopes is not None:
            chunk.slope = self._slopes[: stop - start]
        return chunk

    def _softmax(self, start: int, stop: int, targets: Tensor) -> SoftmaxChunk:
        logits = self._project(start, stop)
        if self._probabilities is not None:
            return _softmax_with_entropy(logits, self._probabilities[: stop - start], targets)
        if logits.device.type == "cpu":
            chunk = _softmax_in_place(logits, targets)
            if chunk is not None:
                return chunk
            logits = self._project(start, stop)  # the attempt has overwritten them
        return _softmax_by_passes(logits, targets)

    def _chunk_rows(self, budget: int, num_buffers: int) -> int:
        total, (vocabulary, _) = self.hidden.shape[0], self.weight.shape
        row_bytes = vocabulary * (self.dtype.itemsize * num_buffers)
        if self.hidden.dtype != self.dtype:
            row_bytes += vocabulary * self.hidden.dtype.itemsize  # the half-precision copy that enters the GEMMs
        rows = max(1, min(total, budget // row_bytes))
        num_chunks = max(1, -(-total // rows))
        return max(1, -(-total // num_chunks))  # chunks of equal size avoid a short GEMM at the end

    def _project(self, start: int, stop: int) -> Tensor:
        """Returns (n, V) logits of rows start..stop, divided by the temperature, in the reused buffer."""
        logits, hidden = self._logits[: stop - start], self.hidden[start:stop]
        scale_hidden = self._divisor != 1.0 and hidden.dtype == self.dtype  # (n, D) is cheaper to scale than (n, V)
        matmul_into(logits, hidden / self._divisor if scale_hidden else hidden, self.weight.t())
        if self._divisor != 1.0 and not scale_hidden:
            logits.div_(self._divisor)
        if self.bias is not None:
            logits.add_(self.bias / self._divisor)
        slope = None if self._slopes is None else self._slopes[: stop - start]
        return self._transform.cap_(logits, self._sampling_temperature, slope)


def _softmax_in_place(logits: Tensor, targets: Tensor) -> SoftmaxChunk | None:
    """The fastest softmax on a CPU, which overwrites its own input; None if the probability of a target is too small.

    torch's softmax gives no normaliser, but any one entry does: log Z = z_0 - log p_0. The entry is target 0 for every
    K, so further targets change no bit of the result.
    """
    target_logits = logits.gather(1, targets)  # (n, K)
    torch.softmax(logits, -1, out=logits)
    first = logits.gather(1, targets[:, :1])  # (n, 1)
    if bool(first.min() < torch.finfo(first.dtype).tiny * 1e8):
        return None
    log_normalizer = target_logits[:, :1] - first.log()  # (n, 1)
    return SoftmaxChunk(logits, None, target_logits - log_normalizer)


def _softmax_by_passes(logits: Tensor, targets: Tensor) -> SoftmaxChunk:
    """The softmax with exp(z - max) in place and its sums aside: exact for any probability."""
    target_logits = logits.gather(1, targets)  # (n, K), before the passes overwrite the logits
    peaks, sums = [], []
    for block in logits.split(block_rows(logits)):
        peaks.append(block.amax(-1, keepdim=True))
        sums.append(block.sub_(peaks[-1]).exp_().sum(-1, keepdim=True))
    peak, total = torch.cat(peaks), torch.cat(sums)  # (n, 1)
    return SoftmaxChunk(logits, total.reciprocal(), target_logits - peak - total.log())


def _softmax_with_entropy(logits: Tensor, probabilities: Tensor, targets: Tensor) -> SoftmaxChunk:
    """The softmax with p in `probabilities`, log p in `logits`. The product p log p exists for one block at a time."""
    target_logits = logits.gather(1, targets)  # (n, K)
    normalizers, entropies = [], []
    rows = block_rows(logits)
    product = torch.empty_like(logits[:rows])
    for block, out in zip(logits.split(rows), probabilities.split(rows), strict=True):
        peak = block.amax(-1, keepdim=True)
        torch.softmax(block, -1, out=out)
        normalizers.append(peak - out.amax(-1, keepdim=True).log())  # log Z (block, 1), from the largest entry
        block.sub_(normalizers[-1]).clamp_(min=LEAST_LOGPROB)
        entropies.append(torch.mul(out, block, out=product[: len(block)]).sum(-1).neg_())
    logprobs = target_logits - torch.cat(normalizers)  # (n, K)
    return SoftmaxChunk(probabilities, None, logprobs, log_probabilities=logits, entropy=torch.cat(entropies))


@torch.no_grad()
def chunked_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    transform: LogitTransform = PLAIN,
    with_entropy: bool = False,
    chunk_bytes: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Returns log-probabilities (N, K) of targets (N, K) and, with `with_entropy`, entropies (N,), without gradient.

    Args:
        hidden: (N, D) hidden states, each of the position before its target.
        weight: (V, D) of the LM head; `bias` (V,).
        transform: what the model does to the head's logits.
        targets: (N, K) int64 token ids in [0, V).
        chunk_bytes: budget of the logits buffers. None means 56 MiB on a CPU and 512 MiB on a GPU.
    """
    check_head_inputs(hidden, weight, bias, targets, temperature)
    with torch.autocast(hidden.device.type, enabled=False):
        chunks = HeadChunks(
            hidden,
            weight,
            bias,
            temperature=temperature,
            transform=transform,
            with_entropy=with_entropy,
            chunk_bytes=chunk_bytes,
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
    """Raise ValueError for shapes that do not fit, targets outside the vocabulary, or a temperature <= 0.

    Targets are looked at on a CPU only. On a GPU the look would wait for the device, so callers check before the copy.
    """
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
    if targets.device.type == "cpu":
        check_targets(targets, vocabulary)


def check_targets(targets: Tensor, vocabulary: int) -> None:
    """Raise ValueError for a target outside [0, V). On a GPU `gather` with such an id would end the process."""
    if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= vocabulary):
        wrong = targets[(targets < 0) | (targets >= vocabulary)][0]
        raise ValueError(
            f"target {int(wrong)} is outside [0, {vocabulary}): put 0 where target_mask is 0, "
            "and map teacher ids to the policy's vocabulary first"
        )
