"""The methods that this package adds to vLLM's worker. vLLM imports the module by name in every worker process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tgpo_ray.models.lean_scoring import Partings, RowCollector, ScoredRows
from tgpo_ray.models.scoring import ScoringRequest, Want
from tgpo_ray.models.weight_buckets import read_buckets

if TYPE_CHECKING:
    import ray

    from tgpo_ray.models.weight_buckets import Bucket


class WorkerExtension:
    """A mixin of vLLM's worker. `collective_rpc` calls its methods in every tensor-parallel process."""

    # a class attribute: vLLM adds the class to the worker's bases and never calls its `__init__`
    _tgpo_rows: RowCollector | None = None

    def tgpo_seed(self, seed: int) -> None:
        """Seed torch, from whose global generators vLLM samples."""
        torch.manual_seed(seed)

    def tgpo_load_weights(self, buckets: Sequence[ray.ObjectRef[Bucket] | Bucket]) -> None:
        """Load the weight buckets one after the other. So they are never all in memory beside the model."""
        runner: Any = self.model_runner  # pyright: ignore[reportAttributeAccessIssue]
        runner.reload_weights(weights_iterator=read_buckets(buckets), is_checkpoint_format=True)
        repack_heads(runner.get_model())

    def tgpo_repack_heads(self) -> None:
        """Make packed copies of weights current, after vLLM's own weight transfer."""
        runner: Any = self.model_runner  # pyright: ignore[reportAttributeAccessIssue]
        repack_heads(runner.get_model())

    def tgpo_start_scoring(self, requests: Sequence[ScoringRequest], partings: Partings, want: Want, seed: int) -> None:
        """Score the rows of these requests, whose prefills come next."""
        self.tgpo_take_rows()  # a call that failed may have left its collector
        runner: Any = self.model_runner  # pyright: ignore[reportAttributeAccessIssue]
        self._tgpo_rows = RowCollector(runner, requests, partings, want, seed)

    def tgpo_take_rows(self) -> ScoredRows | None:
        """Returns the rows scored since `tgpo_start_scoring`, or None where this process has no logits."""
        collector, self._tgpo_rows = self._tgpo_rows, None
        return None if collector is None else collector.take()


def repack_heads(model: nn.Module) -> None:
    """Give a tied LM head the weights that its embedding just got.

    On a CPU vLLM multiplies with a packed copy of each weight. A reload renews only the copies of layers that got a
    weight. A tied head gets none, so without this call it would keep sampling from its first weights.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
