"""Weights on their way from learners to engines: flat buckets of at most 1 GiB.

A bucket is a list of `(name, dtype, array)`; its arrays travel through Ray's object store as numpy and are read there
without a copy (a torch tensor would be pickled: 40 times slower).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import ray
import torch

MAX_BUCKET_BYTES = 2**30

Bucket = list[tuple[str, str, np.ndarray]]


def to_array(tensor: torch.Tensor) -> tuple[str, np.ndarray]:
    """A tensor as (dtype name, numpy array); bfloat16, which numpy lacks, goes as its int16 bits."""
    tensor = tensor.detach().cpu().contiguous()
    name = str(tensor.dtype).removeprefix("torch.")
    return name, (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def from_array(dtype: str, array: np.ndarray) -> torch.Tensor:
    """The tensor again, sharing memory with the (read-only) array: copy from it, never write to it."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def fill_buckets(weights: Iterable[tuple[str, torch.Tensor]], max_bytes: int = MAX_BUCKET_BYTES) -> Iterator[Bucket]:
    """Group named weights into buckets; a single weight above the limit gets a bucket of its own."""
    bucket: Bucket = []
    size = 0
    for name, tensor in weights:
        dtype, array = to_array(tensor)
        if bucket and size + array.nbytes > max_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, dtype, array))
        size += array.nbytes
    if bucket:
        yield bucket


def read_buckets(refs: Sequence[ray.ObjectRef[Bucket] | Bucket]) -> Iterator[tuple[str, torch.Tensor]]:
    """Fetch bucket after bucket and yield `(name, tensor)`; a bucket is let go before the next one is fetched."""
    for ref in refs:
        bucket: Bucket = ray.get(ref) if isinstance(ref, ray.ObjectRef) else ref
        for name, dtype, array in bucket:
            yield name, from_array(dtype, array)
