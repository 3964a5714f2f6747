"""Weights between learners and engines, in buckets of at most 1 GiB.

A bucket is a list of `(name, dtype, array)`. Its arrays go through Ray's object store as numpy, which readers map
without a copy. Ray pickles torch tensors, which takes 40 times as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import ray
import torch

MAX_BUCKET_BYTES = 2**30

Bucket = list[tuple[str, str, np.ndarray]]


def to_array(tensor: torch.Tensor) -> tuple[str, np.ndarray]:
    """Returns (dtype name, numpy array). A bfloat16 tensor becomes its int16 bits, because numpy has no bfloat16."""
    tensor = tensor.detach().cpu().contiguous()  # in the weight's own shape
    name = str(tensor.dtype).removeprefix("torch.")
    return name, (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def from_array(dtype: str, array: np.ndarray) -> torch.Tensor:
    """Returns the tensor of the array. It shares the read-only memory, so never write to it."""
    import warnings

    # arrays from the object store are read-only, and torch has no read-only tensors
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def fill_buckets(weights: Iterable[tuple[str, torch.Tensor]], max_bytes: int = MAX_BUCKET_BYTES) -> Iterator[Bucket]:
    """Yields buckets of the named weights. A weight above the limit gets its own bucket."""
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


def fetched(buckets: Sequence[ray.ObjectRef[Bucket] | Bucket]) -> list[Bucket]:
    """Returns the buckets themselves. Their arrays still stand in the object store."""
    return [ray.get(bucket) if isinstance(bucket, ray.ObjectRef) else bucket for bucket in buckets]


def read_buckets(refs: Sequence[ray.ObjectRef[Bucket] | Bucket]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields `(name, tensor)` of every bucket, fetched one after the other."""
    for ref in refs:
        bucket: Bucket = ray.get(ref) if isinstance(ref, ray.ObjectRef) else ref
        for name, dtype, array in bucket:
            yield name, from_array(dtype, array)
