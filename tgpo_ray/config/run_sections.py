"""The sections that say how the run goes: training, guidance, reference, evaluation, checkpoints, faults, reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tgpo_ray.config.sections import GIB, EvaluationEnvConfig, RunView
from tgpo_ray.config.values import Bytes, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section, Share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tgpo_ray.guidance import ConstantWeight, CosineDecay, LinearDecay

Beta = Annotated[float, Field(ge=0, lt=1)]
OldLogprobs = Literal["none", "sampler", "learner"]


class OptimizerConfig(Section):
    """What every `training` section has: AdamW. Weight decay 0.01, betas and clip as the paper's runs."""

    lr: PositiveFloat = Field(default=1e-6, description="Learning rate of AdamW.")
    weight_decay: NonNegativeFloat = Field(default=0.01, description="Decoupled weight decay of AdamW.")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), strict=False, description="AdamW's two averaging rates.")
    grad_clip: PositiveFloat = Field(default=1.0, description="Largest gradient norm; longer gradients are scaled.")


class TrainingConfig(OptimizerConfig):
    """`training`: batch shape, optimizer and policy loss of an algorithm that samples from the policy."""

    unread: ClassVar[tuple[str, ...]] = ()  # keys that the algorithm inherits and its loss does not contain

    num_iterations: Positive = Field(default=300, description="Iterations: sample, score, update, sync weights.")
    groups_per_iteration: Positive = Field(default=128, description="Problems sampled in an iteration.")
    group_size: Positive = Field(default=8, description="Episodes of one problem.")
    updates_per_iteration: Positive = Field(default=1, description="Optimizer steps that share an iteration's groups.")
    old_logprobs: OldLogprobs | None = Field(
        default=None,
        description="Source of pi_old; null: sampler where max_staleness > 0, none with one update, else learner.",
    )
    lr_warmup_steps: NonNegative = Field(default=0, description="Optimizer steps of linear warm-up.")
    clip_low: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.2, description="The ratio is clipped at 1 - this.")
    clip_high: NonNegativeFloat = Field(default=0.2, description="The ratio is clipped at 1 + this.")
    entropy_weight: NonNegativeFloat = Field(default=0.001, description="Weight of the entropy bonus.")
    max_staleness: NonNegative = Field(
        default=0, description="Weight versions the runners may lag; only 0 (on-policy) so far."
    )
    dynamic_sampling: bool = Field(
        default=False, description="Replace groups whose rewards are all equal, which teach nothing, by other problems."
    )
    max_sampling_rounds: Positive = Field(
        default=10, description="Rounds of dynamic sampling; then the iteration goes on with the groups it has."
    )

    @property
    def needs_sampler_logprobs(self) -> bool:
        """Whether episodes carry the log-probs that the engine reported."""
        return self.resolved_old_logprobs() == "sampler"

    def problems(self, config: RunView) -> Iterator[str]:
        """A line for each rule between this section and others that is broken; a section of one's own adds to them."""
        if self.dynamic_sampling and self.group_size < 2:
            yield "training.dynamic_sampling: needs group_size >= 2, got 1: the rewards of one episode are always equal"
        for key in self.unread:
            if getattr(self, key) != type(self).model_fields[key].default:
                yield f"training.{key}: the loss of {config.algorithm} does not contain it; leave it out"

    def resolved_old_logprobs(self) -> OldLogprobs:
        """`old_logprobs`, or what null stands for: see the field."""
        if self.old_logprobs is not None:
            return self.old_logprobs
        if self.max_staleness > 0:
            return "sampler"
        return "none" if self.updates_per_iteration == 1 else "learner"

    @property
    def groups_per_update(self) -> int:
        return self.groups_per_iteration // self.updates_per_iteration


class TeacherTermConfig(Section):
    """What a teacher's term has in every algorithm: a weight over time, and a rule for tokens that the policy lacks."""

    weight: NonNegativeFloat = Field(default=2e-3, description="w at the first iteration.")
    decay: NonNegativeFloat = Field(default=0.0, description="Linear schedule: what w loses at each iteration.")
    minimum: NonNegativeFloat = Field(
        default=0.0, description="Linear schedule: least w; at w = 0 the teacher is not called."
    )
    schedule: Literal["linear", "constant", "cosine"] = Field(
        default="linear", description="linear: minus decay each iteration; cosine: to 0 over num_iterations."
    )
    unmapped: Literal["mask", "first_piece"] = Field(
        default="mask", description="A teacher token that the policy lacks: no guidance there, or its first piece."
    )
    max_unmapped_share: Share = Field(default=0.05, description="The run fails above this share of unmapped tokens.")

    def build_schedule(self, num_iterations: int) -> ConstantWeight | LinearDecay | CosineDecay:
        """Returns the callable step -> w, the step counted from 0."""
        from tgpo_ray.guidance import ConstantWeight, CosineDecay, LinearDecay  # imports torch

        if self.schedule == "constant":
            return ConstantWeight(self.weight)
        if self.schedule == "cosine":
            return CosineDecay(self.weight, num_iterations)
        return LinearDecay(self.weight, self.decay, self.minimum)


class GuidanceConfig(TeacherTermConfig):
    """`guidance`: the teacher's term of the loss, w_t * -log pi(teacher's token)."""

    label: Literal["argmax", "sample", "topk"] = Field(
        default="argmax",
        description="What is learned: the teacher's likeliest token, one drawn from it, or its top_k distribution.",
    )
    top_k: Annotated[int, Field(ge=2, le=128)] = Field(
        default=20, description="Label topk: how many of the teacher's tokens; one alone is label argmax."
    )
    normalization: Literal["token", "sequence"] = Field(
        default="token", description="token: all guided tokens weigh the same; sequence: all responses do (Eq. 3)."
    )


class ReferenceConfig(Section):
    """`reference`: the frozen model of a KL term, one more scorer. Started where `training.kl_weight` is above 0.

    Tokenizer, dtype, hf_overrides and trust_remote_code are the policy's.
    """

    path: str | None = Field(default=None, description="Folder or id; null: the weights that the policy starts from.")
    backend: Literal["vllm", "transformers"] = Field(default="vllm", description="What computes its log-probs.")
    num_replicas: Positive = Field(default=1, description="Reference actors; work goes to the least loaded.")
    tensor_parallel_size: Positive = Field(default=1, description="GPUs that one replica is split over.")
    num_cpus_per_replica: NonNegativeFloat = Field(default=1.0, description="CPUs reserved in Ray for one replica.")
    num_gpus_per_replica: NonNegativeFloat | None = Field(
        default=None, description="GPUs of one replica; null: tensor_parallel_size where the cluster has GPUs, else 0."
    )
    kv_cache_memory: Bytes = Field(default=GIB, description="vllm: KV cache of one replica: bytes, or text as 40GiB.")
    max_num_seqs: Positive = Field(default=256, description="Sequences that one replica scores at a time.")
    token_budget: Positive = Field(
        default=16384, description="transformers: most tokens of one forward pass; a longer sequence goes alone."
    )


class TraceFileConfig(Section):
    """A file of prompts with responses, jsonl or parquet, as `tgpo-ray traces` writes it."""

    path: str = Field(default="", description="jsonl or parquet file of prompts and responses.")
    prompt_column: str = Field(default="prompt", description="Column of the prompt; not trained on.")
    response_column: str = Field(default="response", description="Column of the response; trained on, and its end.")


class SFTDataConfig(TraceFileConfig):
    """`data`: prompts with responses, and how they are walked."""

    shuffle: bool = Field(default=True, description="A new seeded order in each epoch.")
    max_tokens: Positive = Field(default=2048, description="Rows of more tokens are left out and counted.")


class SFTTrainingConfig(OptimizerConfig):
    """`training` of SFT. Defaults: the paper's, 3 epochs, batch 64, lr 5e-5, warm-up over a tenth of the steps."""

    lr: PositiveFloat = Field(default=5e-5, description="Learning rate of AdamW, constant after the warm-up.")
    num_epochs: PositiveFloat = Field(default=3.0, description="Passes over the data; num_iterations goes first.")
    num_iterations: Positive | None = Field(default=None, description="Optimizer steps; null: num_epochs counts.")
    batch_size: Positive = Field(default=64, description="Rows of one optimizer step, over all learners.")
    warmup_ratio: Share = Field(default=0.1, description="Share of the steps in which the rate rises linearly.")
    lr_schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="After the warm-up: constant, or a half cosine to a twentieth of lr."
    )


class EvaluationConfig(Section):
    """`evaluation`: held-out sets, on the runners' engines."""

    every: Positive | None = Field(default=None, description="Iterations between evaluations; null: at the ends only.")
    at_start: bool = Field(default=True, description="Evaluate before the first iteration.")
    at_end: bool = Field(default=True, description="Evaluate after the last iteration.")
    temperature: NonNegativeFloat = Field(default=0.6, description="Sampling temperature; 0: greedy.")
    num_samples: Positive = Field(default=1, description="Responses to each problem (n of avg@n).")
    max_problems: Positive | None = Field(default=None, description="Problems of each set; null: all.")
    envs: list[EvaluationEnvConfig] = Field(default_factory=list, description="The held-out sets.")


class CheckpointingConfig(Section):
    """`checkpointing`: where the run's folder is and how often it is saved."""

    storage_path: str = Field(default="runs", description="Folder or URI; the run writes <storage_path>/<name>.")
    every: Positive | None = Field(default=None, description="Iterations between checkpoints; null: the last alone.")
    keep: Positive = Field(default=2, description="Checkpoints kept; older ones are deleted.")


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
    sample_timeout_s: PositiveFloat = Field(default=600.0, description="Seconds in which a group must arrive.")
    start_timeout_s: PositiveFloat = Field(default=600.0, description="Seconds in which actors must be ready.")


class ReportingConfig(Section):
    """`reporting`: who hears of the metrics beside the run's folder."""

    tensorboard: bool = Field(default=False, description="Write TensorBoard events.")
    wandb: str | None = Field(default=None, description="Weights & Biases project; null: not used.")
    samples_every: Positive = Field(default=20, description="Iterations between samples of episodes.")
    progress: bool = Field(default=True, description="Show the live progress line.")
