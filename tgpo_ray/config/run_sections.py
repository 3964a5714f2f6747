"""The sections about the course of a run: optimizer, reference, weights, checkpoints, faults, reports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from tgpo_ray.config.lora_section import LoraConfig
from tgpo_ray.config.sections import KV_CACHE_VALUES, RunView, Section
from tgpo_ray.config.values import (
    AutoBytes,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Share,
    resolve_kv_cache,
)
from tgpo_ray.config.working_folder import RAY_RESULTS, RUNS, default_storage, storage_problem
from tgpo_ray.models import MAX_ENGINE_RANK

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Section):
    """What every `training` section has: AdamW. Weight decay 0.01, betas and clip as the paper's runs."""

    num_iterations: Positive | None = Field(default=None, description="Optimizer steps; null: as the method says.")
    lr: PositiveFloat = Field(default=1e-6, description="Learning rate of AdamW.")
    weight_decay: NonNegativeFloat = Field(default=0.01, description="Decoupled weight decay of AdamW.")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), strict=False, description="AdamW's two averaging rates.")
    grad_clip: PositiveFloat = Field(default=1.0, description="Largest gradient norm; longer gradients are scaled.")
    dropout: bool = Field(
        default=False, description="SFT: train with the dropout of the model's configuration. Off in RL, always."
    )

    @property
    def uses_reference(self) -> bool:
        """Whether the loss has a KL to the frozen reference."""
        return False

    @property
    def sampler_is_old(self) -> bool:
        """Whether pi_old is what the engine reported when it sampled."""
        return False


class ReferenceConfig(Section):
    """`reference`: the frozen model of a KL term, one more scorer. Started where `training.kl_weight` is above 0.

    With `model.lora` and without a `path` nothing is started: the learners have the frozen model. Tokenizer, dtype,
    hf_overrides and trust_remote_code are the policy's.
    """

    path: str | None = Field(default=None, description="Folder or id; null: the weights that the policy starts from.")
    backend: Literal["vllm", "transformers"] = Field(default="vllm", description="What computes its log-probs.")
    num_replicas: Positive = Field(default=1, description="Reference actors; work goes to the least loaded.")
    tensor_parallel_size: Positive = Field(default=1, description="GPUs that one replica is split over.")
    num_cpus_per_replica: NonNegativeFloat = Field(default=1.0, description="CPUs reserved in Ray for one replica.")
    num_gpus_per_replica: NonNegativeFloat | None = Field(
        default=None, description="GPUs of one replica; null: tensor_parallel_size where the cluster has GPUs, else 0."
    )
    kv_cache_memory: AutoBytes = Field(default="auto", description=f"vllm: KV cache of one replica: {KV_CACHE_VALUES}")
    max_num_seqs: Positive = Field(default=256, description="Sequences that one replica scores at a time.")
    token_budget: Positive = Field(
        default=16384, description="transformers: most tokens of one forward pass; a longer sequence goes alone."
    )

    def fill_in(self, run: RunView, *, gpus: bool) -> None:
        if self.num_gpus_per_replica is None:
            self.num_gpus_per_replica = float(self.tensor_parallel_size if gpus else 0)
        self.kv_cache_memory = resolve_kv_cache(self.kv_cache_memory, gpus=self.num_gpus_per_replica)

    def facts(self, run: RunView) -> dict[str, str]:
        if not run.uses_reference:
            return {}
        if not run.starts_reference:
            return {"reference": "the learners' frozen model, without its adapters: no actor of its own"}
        return {"reference": f"{self.path or run.model.path}, frozen, called in every iteration"}


class TraceFileConfig(Section):
    """A file of prompts with responses, jsonl or parquet, as `tgpo-ray traces` writes it."""

    path: str = Field(default="", description="jsonl or parquet file of prompts and responses.")
    prompt_column: str = Field(default="prompt", description="Column of the prompt; not trained on.")
    response_column: str = Field(default="response", description="Column of the response; trained on, and its end.")


class CheckpointingConfig(Section):
    """`checkpointing`: where the run's folder is, how often it is saved, and which checkpoints stay."""

    storage_path: str | None = Field(
        default=None,
        description=f"Folder or URI; the run writes <storage_path>/<name>. null: {RUNS}, in a Ray job {RAY_RESULTS}.",
    )
    every: Positive | None = Field(default=None, description="Iterations between checkpoints; null: by time alone.")
    every_minutes: PositiveFloat | None = Field(
        default=30.0, description="Most minutes between checkpoints, at an iteration's end; null: by iterations alone."
    )
    keep: Positive = Field(default=2, description="Newest checkpoints that are kept; older ones are deleted.")
    keep_best: str | None = Field(
        default="evaluation/reward",
        description="Metric whose best checkpoint is kept beside them, made at each best evaluation; -loss/sft: the "
        "lowest; null: none.",
    )

    def fill_in(self, run: RunView, *, gpus: bool) -> None:
        if self.storage_path is None:
            self.storage_path = default_storage()

    def rules(self, run: RunView) -> Iterator[str]:
        if self.storage_path is not None and (problem := storage_problem(self.storage_path)):
            yield f"checkpointing.storage_path: {problem}"
        if self.keep_best is not None and not is_metric(self.keep_best.removeprefix("-")):
            yield (
                f"checkpointing.keep_best: no metric has the name {self.keep_best!r}: write one of docs/metrics.md, as "
                "evaluation/accuracy, or -loss/sft for the lowest"
            )


def is_metric(name: str) -> bool:
    """Returns whether a run may write a metric of this name, such as that of one of several held-out sets."""
    from tgpo_ray.reporting import METRICS

    of_a_set = re.fullmatch(r"evaluation/[^/]+/(.+)", name)
    plain = f"evaluation/{of_a_set[1]}" if of_a_set else name
    return plain in METRICS or re.fullmatch(r"evaluation/pass_at_\d+", plain) is not None


WEIGHT_SYNC_AUTO = "auto: nccl where runners and learners have GPUs of their own, else object_store"


class RayConfig(Section):
    """`ray`: the cluster. Within `ray job submit`, or with RAY_ADDRESS set, `address` and `num_cpus` stay null."""

    address: str | None = Field(default=None, description="Cluster to join; null: RAY_ADDRESS, else start a local one.")
    num_cpus: Positive | None = Field(default=None, description="CPUs of a local cluster; null: all cores.")
    idle_cores: bool = Field(
        default=True,
        description="Without GPUs: an actor computes with all cores of its machine while no other actor uses them.",
    )


class WeightSyncConfig(Section):
    """`weight_sync`: the way of the learners' weights to the runners' engines."""

    backend: Literal["auto", "object_store", "nccl", "ipc"] = Field(
        default="auto",
        description=(
            f"{WEIGHT_SYNC_AUTO}; nccl: broadcast from GPU to GPU; ipc: runners and learners on the same cards. "
            "nccl and ipc are vLLM's and untested here."
        ),
    )
    lora: Literal["merged", "adapter"] = Field(
        default="merged",
        description="With model.lora: engines get whole weights, adapters merged; or adapters alone, for vLLM's LoRA.",
    )

    def fill_in(self, run: RunView, *, gpus: bool) -> None:
        if self.backend == "auto":
            own = all(amount is not None and amount >= least for _, amount, least in _gpus_of_both(run))
            self.backend = "nccl" if own and not run.syncs_later and self.lora == "merged" else "object_store"

    def rules(self, run: RunView) -> Iterator[str]:
        if self.lora == "adapter":
            yield from self._adapter_rules(run.model.lora)
        known = [(key, amount, least) for key, amount, least in _gpus_of_both(run) if amount is not None]
        if self.backend in ("nccl", "ipc") and run.syncs_later:
            yield (
                f"weight_sync.backend: {self.backend} sends weights while every engine waits for them, which needs "
                "training.max_staleness 0 or 1 and env_runners.weight_update between_batches; write object_store"
            )
        if self.backend == "nccl":
            for key, amount, least in known:
                if amount < least:
                    yield (
                        f"weight_sync.backend: nccl needs {key} >= {least}, got {amount:g}: every process needs a GPU "
                        "of its own; write object_store, which works anywhere, or ipc on shared GPUs"
                    )
        elif self.backend == "ipc":
            for key, amount, least in known:
                if not 0 < amount < 1 or least > 1:
                    yield (
                        f"weight_sync.backend: ipc needs {key} between 0 and 1 and env_runners.tensor_parallel_size 1, "
                        f"got {amount:g} and {run.env_runners.tensor_parallel_size}: a runner shares its GPU with a "
                        "learner; write object_store, which works anywhere, or nccl with GPUs of their own"
                    )

    def _adapter_rules(self, lora: LoraConfig | None) -> Iterator[str]:
        if lora is None:
            yield "weight_sync.lora: adapter needs model.lora, which is null: without adapters write merged"
        elif lora.rank > MAX_ENGINE_RANK:
            yield (
                f"model.lora.rank: must be <= {MAX_ENGINE_RANK} with weight_sync.lora adapter, got {lora.rank}: vLLM "
                "has no larger ones; write weight_sync.lora: merged"
            )
        if self.backend not in ("auto", "object_store"):
            yield (
                f"weight_sync.backend: {self.backend} sends whole weights, and weight_sync.lora is adapter: write "
                "object_store, which is fast enough for adapters, or weight_sync.lora: merged"
            )

    def facts(self, run: RunView) -> dict[str, str]:
        if not run.needs_envs:
            return {}
        if self.lora == "adapter":
            return {"weight sync": "adapters alone, over the object store"}
        return {"weight sync": WEIGHT_SYNC_AUTO if self.backend == "auto" else self.backend}


def _gpus_of_both(run: RunView) -> list[tuple[str, float | None, int]]:
    """Returns (key, value, GPUs of its processes) of the runners and the learners. The value may still be null."""
    runners = run.env_runners
    return [
        ("env_runners.num_gpus_per_env_runner", runners.num_gpus_per_env_runner, runners.tensor_parallel_size),
        ("learners.num_gpus_per_learner", run.learners.num_gpus_per_learner, 1),
    ]


class FaultToleranceConfig(Section):
    """`fault_tolerance`: how much may break before the run fails."""

    max_learner_restarts: NonNegative = Field(default=3, description="Restarts of the learner group in a run.")
    max_env_runner_restarts: NonNegative = Field(default=10, description="Restarts of runners in a run.")
    teacher_timeout_s: PositiveFloat = Field(default=60.0, description="Seconds for a teacher's answer to one request.")
    max_unguided_share: Share = Field(default=0.05, description="The run fails above this share without guidance.")
    verifier_failures: Literal["score_zero", "drop_episode", "fail"] = Field(
        default="score_zero",
        description="Episodes whose verifier failed: score 0; are not trained on; or fail the run above a share.",
    )
    max_verifier_failure_share: Share = Field(
        default=0.05, description="With verifier_failures fail: the run fails above this share of an iteration."
    )
    preflight: bool = Field(default=True, description="Check the actors against each other before the first iteration.")
    sampler_gap_every: NonNegative = Field(
        default=10, description="Iterations between comparisons of learner and sampler, from the second on; 0: none."
    )
    max_sampler_gap: PositiveFloat | None = Field(
        default=None,
        description="The run ends above this mean difference, in nats a token; null: 0.01, in bfloat16 0.2.",
    )
    sample_timeout_s: PositiveFloat = Field(default=600.0, description="Seconds in which a group must arrive.")
    start_timeout_s: PositiveFloat = Field(default=600.0, description="Seconds in which actors must be ready.")
    grace_s: NonNegativeFloat = Field(
        default=15.0,
        description="Seconds after SIGTERM for an update or evaluation to end, before a last checkpoint; 0: none.",
    )
