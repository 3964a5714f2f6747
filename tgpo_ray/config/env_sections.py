"""The sections of environments and of the runners that sample from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from tgpo_ray.config.sampling_rules import stop_problems, temperature_problems
from tgpo_ray.config.sections import KV_CACHE_VALUES, RunView, Section
from tgpo_ray.config.values import AutoBytes, NonNegativeFloat, Positive, PositiveFloat, Share, resolve_kv_cache


class NamedEnvConfig(Section):
    """An environment with its arguments, and its name in metrics."""

    id: str = Field(description="gymnasium id, as tgpo/Math-v0 or my_module:MyEnv-v0.", min_length=1)
    name: str | None = Field(default=None, description="Its name in metrics; null: taken from the id (Math).")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="Arguments of the environment.")

    @property
    def label(self) -> str:
        """The name in metrics: `name`, else the id without module, namespace and version, as `Math`."""
        return self.name or self.id.split(":")[-1].split("/")[-1].rsplit("-v", 1)[0]


class EvaluationEnvConfig(NamedEnvConfig):
    """`evaluation.envs.<i>`: one held-out set."""

    num_samples: Positive | None = Field(
        default=None, description="Responses to each of its problems; null: evaluation.num_samples."
    )


class EnvConfig(NamedEnvConfig):
    """`envs.<i>`: one training environment."""

    weight: PositiveFloat = Field(default=1.0, description="Share of the groups, relative to the other environments.")
    teacher: str = Field(default="default", description="Key in `teachers` of the teacher that guides it.")


class EnvRunnersConfig(Section):
    """`env_runners`: vLLM engines with environments."""

    num_env_runners: Positive = Field(default=1, description="Runner actors, each with its own engine.")
    tensor_parallel_size: Positive = Field(default=1, description="GPUs that one engine is split over.")
    temperature: PositiveFloat = Field(default=1.0, description="Sampling temperature of training rollouts.")
    top_p: Share = Field(default=1.0, description="Nucleus sampling; training needs 1.0.")
    max_prompt_tokens: Positive = Field(default=1024, description="Longest prompt, in tokens of the policy.")
    overlong_prompts: Literal["refuse", "drop"] = Field(
        default="refuse",
        description="refuse: a longer prompt ends the run, at its start where there are rows; drop: another problem "
        "takes its place.",
    )
    max_response_tokens: Positive = Field(default=2048, description="Longest response, in tokens.")
    stop: list[str] = Field(default_factory=list, description="Texts that end a response, beside end-of-sequence.")
    kv_cache_memory: AutoBytes = Field(default="auto", description=f"KV cache of one engine: {KV_CACHE_VALUES}")
    max_num_seqs: Positive = Field(default=256, description="Sequences that one engine decodes at a time.")
    num_cpus_per_env_runner: NonNegativeFloat = Field(default=1.0, description="CPUs reserved in Ray for one runner.")
    num_gpus_per_env_runner: NonNegativeFloat | None = Field(
        default=None, description="GPUs of one runner; null: tensor_parallel_size where the cluster has GPUs, else 0."
    )
    sleep: bool = Field(
        default=False,
        description="Engines leave the card to the learners between sampling and the new weights (vLLM's sleep mode); "
        "for fractions of one GPU. Untested.",
    )
    weight_update: Literal["between_batches", "in_flight"] = Field(
        default="between_batches",
        description="When engines take new weights; in_flight: between two decoding steps, with max_staleness >= 1.",
    )
    seed_by: Literal["request", "runner"] = Field(
        default="request",
        description="request: a group's tokens follow from seed, weights and problem alone; runner: one generator for "
        "an engine, whose tokens depend on what else it samples.",
    )
    num_verifier_workers: Positive | None = Field(
        default=None,
        description="Verifier processes of one runner; null: num_cpus_per_env_runner rounded down, at least 1.",
    )
    verify_deadline_s: PositiveFloat = Field(default=10.0, description="Seconds after which a verifier is killed.")

    @property
    def verifier_workers(self) -> int:
        """`num_verifier_workers`, or the value that null stands for."""
        return self.num_verifier_workers or max(1, int(self.num_cpus_per_env_runner))

    def fill_in(self, run: RunView, *, gpus: bool) -> None:
        if self.num_gpus_per_env_runner is None:
            self.num_gpus_per_env_runner = float(self.tensor_parallel_size if gpus else 0)
        self.kv_cache_memory = resolve_kv_cache(self.kv_cache_memory, gpus=self.num_gpus_per_env_runner)
        self.num_verifier_workers = self.verifier_workers

    def rules(self, run: RunView) -> Iterator[str]:
        yield from temperature_problems("env_runners.temperature", self.temperature, may_be_greedy=False)
        yield from stop_problems("env_runners.stop", self.stop)
        if self.sleep:
            yield from _sleep_problems(run)
        if run.needs_envs and self.top_p < 1.0:
            yield (
                f"env_runners.top_p: must be 1.0 in training, got {self.top_p:g}: a token outside the nucleus has "
                "log-prob -inf under the sampler, and the ratio no value"
            )


def _sleep_problems(run: RunView) -> Iterator[str]:
    """Yields what keeps engines from giving their cards to the learners."""
    amounts = {
        "env_runners.num_gpus_per_env_runner": run.env_runners.num_gpus_per_env_runner,
        "learners.num_gpus_per_learner": run.learners.num_gpus_per_learner,
    }
    for key, amount in amounts.items():
        if amount is None or not 0 < amount < 1:
            found = "null" if amount is None else f"{amount:g}"
            reason = "a CPU's memory is not mapped and unmapped" if amount == 0 else "it shares a card with a learner"
            yield f"env_runners.sleep: needs {key} between 0 and 1, got {found}: {reason}; write a fraction, or false"
    if len(run.learner_groups) > 1:
        yield f"env_runners.sleep: needs one group of learners, {run.algorithm_path} has {len(run.learner_groups)}"
