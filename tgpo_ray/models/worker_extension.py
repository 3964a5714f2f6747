"""The methods that this package adds to vLLM's worker. vLLM imports the module by name in every worker process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from tgpo_ray.models.engine_reload import Reload, repack_heads
from tgpo_ray.models.lean_scoring import Partings, RowCollector, ScoredRows
from tgpo_ray.models.scoring import ScoringRequest, Want
from tgpo_ray.models.weight_buckets import read_buckets

if TYPE_CHECKING:
    import ray

    from tgpo_ray.models.weight_buckets import Bucket


class WorkerExtension:
    """A mixin of vLLM's worker. `collective_rpc` calls its methods in every tensor-parallel process."""

    # class attributes: vLLM adds the class to the worker's bases and never calls its `__init__`
    _tgpo_rows: RowCollector | None = None
    _tgpo_reload: Reload | None = None  # of a weight transfer

    def tgpo_seed(self, seed: int) -> None:
        """Seed torch, from whose global generators vLLM samples."""
        torch.manual_seed(seed)

    def tgpo_load_weights(self, buckets: Sequence[ray.ObjectRef[Bucket] | Bucket]) -> None:
        """Load the weight buckets one after the other. So they are never all in memory beside the model."""
        from vllm.config import set_current_vllm_config

        worker: Any = self
        with set_current_vllm_config(worker.vllm_config):  # kernels of experts read it when they are made
            reload = Reload(worker.model_runner.get_model())
            weights = reload.closed_after(read_buckets(buckets))
            worker.model_runner.reload_weights(weights_iterator=weights, is_checkpoint_format=True)
            reload.finish()

    def tgpo_start_transfer(self) -> None:
        """Begin vLLM's own weight transfer, with what its reload leaves to do."""
        worker: Any = self
        worker.start_weight_update()
        self._tgpo_reload = Reload(worker.model_runner.get_model())

    def tgpo_finish_transfer(self) -> None:
        """End vLLM's own weight transfer."""
        from vllm.config import set_current_vllm_config

        worker: Any = self
        reload, self._tgpo_reload = self._tgpo_reload, None
        assert reload is not None, "a transfer ends that has not begun"
        with set_current_vllm_config(worker.vllm_config):
            reload.close()
        worker.finish_weight_update()
        reload.finish()

    def tgpo_repack_heads(self) -> None:
        """Make packed copies of tied heads current, after a reload of vLLM's alone."""
        worker: Any = self
        repack_heads(worker.model_runner.get_model())

    def tgpo_start_scoring(self, requests: Sequence[ScoringRequest], partings: Partings, want: Want, seed: int) -> None:
        """Score the rows of these requests, whose prefills come next."""
        self.tgpo_take_rows()  # a call that failed may have left its collector
        runner: Any = self.model_runner  # pyright: ignore[reportAttributeAccessIssue]
        self._tgpo_rows = RowCollector(runner, requests, partings, want, seed)

    def tgpo_take_rows(self) -> ScoredRows | None:
        """Returns the rows scored since `tgpo_start_scoring`, or None where this process has no logits."""
        collector, self._tgpo_rows = self._tgpo_rows, None
        return None if collector is None else collector.take()
