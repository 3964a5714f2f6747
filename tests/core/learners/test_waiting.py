"""How often a micro-batch waits for the device: numbers that come to the host, and lookups whose size they decide."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.algorithms.losses_by_name import LOSSES
from tests.core.learners.learner_cases import spec_of
from tests.core.learners.test_layouts import groups, loss_of
from tgpo_ray.learners import device_sums, learner
from tgpo_ray.learners.layouts import LAYOUTS
from tgpo_ray.learners.learner import Learner, load_policy
from tgpo_ray.learners.tokens import Layout, TokenIds

# what makes the host wait for a GPU: a number is read, or it decides a shape
WAITS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive",
         "bincount", "equal", "is_nonzero"}  # fmt: skip


class Waits(TorchDispatchMode):
    """Counts calls that would wait for a GPU. Copies to the CPU are not seen here, because all tensors are there."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name == "index" else ()
        if name in WAITS or any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def test_the_counter_sees_what_waits():
    values = torch.arange(3.0)
    with Waits() as waits:
        _ = float(values.sum()), values[values > 1], values.nonzero(), bool(values.all()), torch.unique(values)
    assert sum(waits.counts.values()) >= 5


@pytest.mark.parametrize(("layout", "most"), [("padded", 1), ("packed", 1), ("shared_prompt", 0)])
def test_a_model_waits_at_most_once_in_a_micro_batch(tiny_models, layout: Layout, most: int):
    """transformers looks whether positions begin again within a row, before it makes a mask."""
    tokens = LAYOUTS[layout].of([TokenIds(e.prompt_ids, e.response_ids) for p in groups() for e in p.ref.episodes])
    trunk: Any = load_policy(spec_of(tiny_models["policy"])).base_model
    with Waits() as waits:
        tokens.states(trunk).sum().backward()
    assert sum(waits.counts.values()) <= most, waits.counts


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Learners on the meta device, whose tensors have no numbers. Collects how many numbers each transfer would fetch.

    torch has no autocast there, and the look of transformers (see above) would fail.
    """
    import transformers.masking_utils

    transfers: list[int] = []

    def fetched(scalars: list[Tensor]) -> list[float]:
        assert all(scalar.device.type == "meta" and scalar.shape == () for scalar in scalars)
        transfers.append(len(scalars))
        return [0.0] * len(scalars)

    monkeypatch.setattr(learner, "own_device", lambda: torch.device("meta"))
    monkeypatch.setattr(device_sums, "fetched", fetched)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(transformers.masking_utils, "find_packed_sequence_indices", lambda position_ids: position_ids)
    monkeypatch.setattr(learner, "check_layout", lambda *_: None)  # it compares numbers
    yield transfers


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LOSSES)
def test_metrics_and_losses_are_fetched_once_for_all_micro_batches(tiny_models, on_meta, layout: Layout, name: str):
    rank = Learner(spec_of(tiny_models["policy"], layout=layout))
    loss, whole = loss_of(name, tiny_models["teacher"]), groups()
    rank.accumulate([whole, whole[:2], [], whole[1:]], loss)
    assert len(on_meta) == 1  # the metrics of the call
    rank.accumulate([whole], loss)
    assert len(on_meta) == 2
    rank.take_loss_sums()
    assert len(on_meta) == 3
