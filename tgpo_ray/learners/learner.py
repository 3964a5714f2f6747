"""Learner: one rank, which accumulates gradients over micro-batches and takes the optimizer step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import torch
from torch import Tensor

from tgpo_ray.episode import ORIGIN_POLICY, Guidance
from tgpo_ray.kernels import HeadWeights, TokenLoss
from tgpo_ray.learners.batch import TrainBatch, TrainEpisode, build_batch
from tgpo_ray.learners.device_sums import DeviceSums
from tgpo_ray.learners.exporting import ExportedModel, export_adapter, export_model, persistent_buffers
from tgpo_ray.learners.fetching import episodes_of
from tgpo_ray.learners.layout_check import check_layout
from tgpo_ray.learners.planning import EpisodeKey, MicroBatch
from tgpo_ray.learners.policy import LearnerSpec, PolicyModule, load_policy
from tgpo_ray.learners.strategies import make_strategy, own_device, process_rank
from tgpo_ray.learners.threads import RankThreads
from tgpo_ray.learners.tokens import Layout
from tgpo_ray.learners.weight_sending import LearnerWeights, WeightSender
from tgpo_ray.models import Adapters, CheckpointLayout, fill_buckets, find_head, whole_shape

if TYPE_CHECKING:
    from tgpo_ray.models import Bucket, WeightTransfer

Sums = dict[str, tuple[float, float]]
REFERENCE = "reference"  # the scorer whose answers the model below the adapters gives


class Learner:
    """One rank. It runs inside a Ray Train worker, or by itself in one process."""

    def __init__(self, spec: LearnerSpec) -> None:
        self._threads = RankThreads(spec.threads, spec.cores)
        torch.manual_seed(spec.seed)
        self._spec = spec
        self.rank = process_rank()
        self._device = own_device()
        spec.card.keep(self._device)
        self._model: Any = load_policy(spec)
        self._buffers = persistent_buffers(self._model)  # before a strategy casts them
        self._checkpoint = CheckpointLayout(self._model)
        self._adapters = None if spec.lora is None else Adapters(self._model, spec.lora, seed=spec.seed)
        self._unchanged: list[Tensor] = []  # B of the adapters, while others stand in for them
        self._vocabulary = whole_shape(self._model.get_output_embeddings().weight)[0]
        module = PolicyModule(self._model, spec.temperature, adapters_only=spec.lora is not None)
        self._strategy = make_strategy(module, spec.options, self._device)
        self._old_logprobs: dict[EpisodeKey, np.ndarray] = {}
        self._teacher_heads: dict[str, HeadWeights] = {}
        self._loss_sums = DeviceSums()
        self._sender: WeightSender | None = None
        self.num_steps = 0
        if spec.layout != "padded":
            check_layout(spec.layout, self._model, self._logprobs, spec.options.dtype)

    def accumulate(self, micro_batches: Sequence[MicroBatch], loss: TokenLoss) -> Sums:
        """Returns metrics as (sum, count), and adds the gradients of the summed loss to those of the parameters."""
        metrics = DeviceSums()
        for micro_batch in self._threads.working(micro_batches):
            batch = self._build(micro_batch, loss)
            self._strategy.module.train()  # here, because a pass for log-probs has set it to evaluation
            with self._strategy.autocast():
                output = self._strategy.module(batch, loss, self._teacher_head(loss))
            self._strategy.backward(output.loss)
            self._loss_sums.add({name: (total,) for name, total in output.sums(loss).items()})
            metrics.add(loss.metrics(output.logprobs, output.entropy, output.rows))
        return {name: (total, count) for name, (total, count) in metrics.take().items()}

    def _teacher_head(self, loss: TokenLoss) -> HeadWeights | None:
        """(V_T, D_T) head of the teacher whose whole distribution the loss needs, loaded once; None without one."""
        if loss.divergence is None:
            return None
        path = loss.divergence.teacher
        if path not in self._teacher_heads:
            stored = find_head(path, trust_remote_code=self._spec.trust_remote_code)
            self._teacher_heads[path] = HeadWeights(*stored.read(), loss.divergence.transform).to(self._device)
        return self._teacher_heads[path]

    def remember_logprobs(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Keep log pi(y_t) under the present weights, as the `old_logprobs` of the later updates of this iteration."""
        for micro_batch in self._threads.working(micro_batches):
            self._old_logprobs |= self.logprobs(micro_batch)

    def logprobs(self, micro_batch: MicroBatch) -> dict[EpisodeKey, np.ndarray]:
        """Returns (T,) log-probs of the response tokens of each episode under the present weights, by episode."""
        episodes = list(episodes_of(micro_batch))
        return dict(zip([it.key for it in episodes], self._logprobs(episodes, self._spec.layout), strict=True))

    def base_logprobs(self, micro_batch: MicroBatch) -> dict[EpisodeKey, np.ndarray]:
        """Returns the same of the model below the adapters, at temperature 1, as a frozen reference gives them."""
        episodes = list(episodes_of(micro_batch))
        return dict(zip([it.key for it in episodes], self._base_logprobs(episodes), strict=True))

    def _base_logprobs(self, episodes: Sequence[TrainEpisode]) -> list[np.ndarray]:
        assert self._adapters is not None, "a model without adapters has no other one below"
        with self._adapters.off():
            return self._logprobs(episodes, self._spec.layout, temperature=1.0)

    def _logprobs(
        self, episodes: Sequence[TrainEpisode], layout: Layout, *, temperature: float | None = None
    ) -> list[np.ndarray]:
        batch = build_batch(episodes, TokenLoss(), None, self._device, layout=layout, vocabulary=self._vocabulary)
        self._strategy.module.eval()
        with torch.no_grad(), self._strategy.autocast():
            logprobs = self._strategy.module(batch, temperature=temperature).float().cpu()  # (N,)
        return [values.numpy() for values in logprobs.split(batch.counts)] if batch.counts else []

    def sampler_gaps(self, micro_batches: Sequence[MicroBatch]) -> list[np.ndarray]:
        """Returns |learner - sampler| log-probs of the policy's tokens, by episode. Gradients stay."""
        gaps = []
        for micro_batch in self._threads.working(micro_batches):
            logprobs = self.logprobs(micro_batch)
            for key, episode, *_ in episodes_of(micro_batch):
                if episode.old_logprobs is not None:  # a teacher's trace has none
                    written = episode.origin == ORIGIN_POLICY
                    gaps.append(np.abs(logprobs[key] - episode.old_logprobs)[written])
        return gaps

    def take_loss_sums(self) -> dict[str, float]:
        """Returns the summed loss of this rank's micro-batches since the last call: `total`, and its parts by name."""
        return {name: total for name, (total,) in self._loss_sums.take().items()}

    def step(self, denominator: float, lr: float) -> dict[str, float]:
        """Returns the gradient's norm, and updates the weights with the accumulated gradients over the global count.

        Raises:
            FloatingPointError: the gradient is not finite. No checkpoint holds the broken weights.
        """
        norm = self._strategy.step(denominator, lr)
        self.num_steps += 1
        self._spec.card.rest(self._device)
        if not np.isfinite(norm):
            raise FloatingPointError(
                f"the gradient norm of update {self.num_steps} is {norm}: lower training.lr or training.grad_clip, or "
                "look for rewards or log-probs that are not finite; the last checkpoint is intact"
            )
        return {"grad_norm": norm}

    def forget_logprobs(self) -> None:
        self._old_logprobs.clear()

    def _build(self, micro_batch: MicroBatch, loss: TokenLoss) -> TrainBatch:
        episodes = list(episodes_of(micro_batch))
        old = self._chosen_old_logprobs(episodes, loss)
        if self._spec.base_is_reference and any(name.startswith(f"{REFERENCE}.") for name in loss.row_fields):
            reference = [Guidance(teacher_logprobs=values) for values in self._base_logprobs(episodes)]
            episodes = [
                it._replace(guidance={**it.guidance, REFERENCE: own})
                for it, own in zip(episodes, reference, strict=True)
            ]
        return build_batch(episodes, loss, old, self._device, layout=self._spec.layout, vocabulary=self._vocabulary)

    def _chosen_old_logprobs(
        self, episodes: Sequence[TrainEpisode], loss: TokenLoss
    ) -> Mapping[EpisodeKey, np.ndarray] | None:
        """Returns the remembered log-probs, else those of the sampler if all episodes carry them, else None."""
        keys = [it.key for it in episodes]
        remembered = [key in self._old_logprobs for key in keys]
        assert all(remembered) or not any(remembered), "a micro-batch mixes episodes of two updates"
        if any(remembered):
            return self._old_logprobs
        if loss.corrects_sampler or not self._spec.sampler_is_old:
            return None
        sampled = {it.key: it.episode.old_logprobs for it in episodes if it.episode.old_logprobs is not None}
        return sampled if keys and len(sampled) == len(keys) else None

    def weight_buckets(self) -> list[ray.ObjectRef[Bucket]]:
        """Returns references to what engines load on rank 0, and an empty list on others.

        That is the weights as a checkpoint holds them, or the adapters as peft's files do.
        """
        sent = self.adapter_tensors() if self._spec.sends_adapters else self.checkpoint_weights()
        if self.rank != 0:
            for _ in sent:  # ZeRO-3's gather is a collective: every rank must walk all parameters
                pass
            return []
        return [ray.put(bucket) for bucket in fill_buckets(sent)]

    def send_weights(self, transfer: WeightTransfer) -> str:
        """Returns "" after the engines have the weights, or what went wrong. Every rank takes part."""
        if self._sender is None:
            weights = LearnerWeights(self._checkpoint, self._published_dtype, self.named_weights)
            self._sender = WeightSender(self.rank, weights, self._device)
        return self._sender.send(transfer)

    def change_weights(self) -> None:
        """Change every weight that trains: halve it, or give adapters random numbers. Nothing may train until after
        `restore_weights`."""
        if self._adapters is None:
            self._strategy.scale_weights(0.5)
        else:
            self._unchanged = self._adapters.shake(self._strategy.writing)

    def restore_weights(self) -> None:
        """Undo `change_weights` to the last bit."""
        if self._adapters is None:
            self._strategy.scale_weights(2.0)
        else:
            self._adapters.put_back(self._strategy.writing, self._unchanged)
            self._unchanged = []

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yields (Hugging Face name, weight in vLLM's precision). A tied weight comes once, under the input's name.

        Adapters are merged into the weights below them.
        """
        if self._adapters is not None:
            for name, weight in self._adapters.merged(self._strategy.whole):
                yield name, weight.detach().to(self._published_dtype)
            return
        for name, weight in self._strategy.named_weights():
            # `PolicyModule.model` puts one "model." in front of the Hugging Face names
            yield name.removeprefix("model."), weight.detach().to(self._published_dtype)

    def adapter_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields (peft's name, A or B in vLLM's precision) of every adapter."""
        assert self._adapters is not None, "a model without adapters has none to send"
        for name, tensor in self._adapters.tensors(self._strategy.whole):
            yield name, tensor.detach().to(self._published_dtype)

    def checkpoint_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yields the named weights and the saved buffers as a checkpoint of the model holds them."""
        return self._checkpoint.weights(self.named_weights())

    @property
    def _published_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self._spec.options.dtype == "bfloat16" else torch.float32

    def export(self, path: str | Path, *, merge: bool = False) -> None:
        """Write a Hugging Face folder: weights, config with the overrides, tokenizer, generation config.

        Of a model with adapters that is peft's folder of these alone, or with `merge` the whole model.

        Raises:
            ValueError, ExportError: see `export_model`. What was at `path` is still there.
        """
        adapters = None if merge else self._adapters
        weights = {}
        # a collective under ZeRO-3, so every rank walks
        for name, weight in self.named_weights() if adapters is None else self.adapter_tensors():
            if self.rank == 0:
                weights[name] = weight.to("cpu", copy=True)  # a gathered ZeRO-3 weight is freed at the next one
        if self.rank == 0 and adapters is not None:
            export_adapter(adapters.spec.file(adapters.targets, self._spec.model), weights, str(path))
        elif self.rank == 0:
            spec = self._spec
            model = ExportedModel(
                self._model, {**weights, **self._buffers}, self._published_dtype, spec.model, spec.tokenizer,
                spec.trust_remote_code,
            )  # fmt: skip
            export_model(model, str(path))

    def save(self, folder: Path) -> None:
        """Write the part of a checkpoint that this rank holds: weights, optimizer, step count, random state."""
        self._strategy.save(folder)
        torch.save({"torch": torch.get_rng_state()}, folder / f"rng_{self.rank}.pt")
        if self.rank == 0:
            (folder / "learner.json").write_text(json.dumps({"num_steps": self.num_steps}))

    def load(self, folder: Path) -> None:
        """Continue from the checkpoint in `folder`.

        Raises:
            ValueError: it holds other weights than this model's, or it is another engine's.
        """
        try:
            self._strategy.load(folder)
        except RuntimeError as error:  # torch's, for names and shapes
            lines = [line.strip() for line in str(error).splitlines()]
            raise ValueError(
                f"the checkpoint {folder} holds other weights than those that train here: model.path and model.lora "
                f"must be those of its run ({' '.join(lines)[:300]})"
            ) from error
        rng = folder / f"rng_{self.rank}.pt"
        if rng.is_file():  # a run with more ranks than the checkpoint has no random state for the new ones
            torch.set_rng_state(torch.load(rng, weights_only=True)["torch"])
        self.num_steps = json.loads((folder / "learner.json").read_text())["num_steps"]
