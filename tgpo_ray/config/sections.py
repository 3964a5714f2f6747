"""Section, and the sections of the policy and of its learners."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tgpo_ray.config.errors import ConfigError, problems_of
from tgpo_ray.config.lora_section import LoraConfig
from tgpo_ray.config.values import (
    LAYOUTS,
    Dtype,
    NonNegativeFloat,
    Positive,
    Strict,
)
from tgpo_ray.models import flash_attention

if TYPE_CHECKING:
    from tgpo_ray.config.env_sections import EnvRunnersConfig

SMALLEST_TOKEN_BUDGET = 16384  # the value of null for short episodes
KV_CACHE_VALUES = "bytes, text as 40GiB, or auto: what is left of its share of the card, on a CPU 1GiB."


class Binding(NamedTuple):
    """The configuration that has a section, and the section's name there."""

    owner: BaseModel
    name: str


def bind(section: BaseModel, owner: BaseModel, name: str) -> None:
    """Tells `section` that `owner` holds it as `name`.

    The slot is no pydantic field, so that comparing, copying and pickling never follow it back to the configuration.
    """
    object.__setattr__(section, "_binding", Binding(owner, name))


def owner_of(section: BaseModel) -> Any:
    """Returns the configuration that holds `section`, or the section itself where none does."""
    binding: Binding | None = getattr(section, "_binding", None)
    return binding.owner if binding else section


def place_of(section: BaseModel) -> tuple[type[BaseModel], tuple[str, ...]]:
    """Returns the class of the configuration that holds `section`, and the section's path there."""
    binding: Binding | None = getattr(section, "_binding", None)
    return (type(binding.owner), (binding.name,)) if binding else (type(section), ())


class Section(Strict):
    """One section of a configuration. Calling it sets some of its values and returns the configuration.

        config.training(lr=1e-4, group_size=4).learners(num_learners=2)

    A section of your own may define the hooks `rules`, `facts` and `fill_in`.
    """

    __slots__ = ("_binding",)

    def __call__(self, **values: Any) -> Any:
        """Sets all of `values`, or none and raises ConfigError where one of them is wrong."""
        # Only the keys that were set, so that defaults stay defaults.
        present = {name: getattr(self, name) for name in self.model_fields_set}
        model, prefix = place_of(self)
        try:
            updated = type(self).model_validate({**present, **values})
        except ValidationError as error:
            raise ConfigError(problems_of(error, model, prefix=prefix)) from None
        for name in values:
            setattr(self, name, getattr(updated, name))
        return owner_of(self)

    def rules(self, run: RunView) -> Iterator[str]:
        """Yields a line for each rule that this section breaks, by itself or with the rest of `run`."""
        yield from ()

    def without_use(self, *keys: str, needs: str) -> Iterator[str]:
        """Yields a line for each of these keys that was given a value, which nothing reads unless `needs` is true."""
        place = ".".join(place_of(self)[1])
        for key in keys:
            value = getattr(self, key)
            if value != type(self).model_fields[key].default:
                yield f"{place}.{key}: needs {needs}; nothing reads {value!r}: leave {key} out"

    def facts(self, run: RunView) -> dict[str, str]:
        """Returns the lines of `tgpo-ray plan` about this section, by name."""
        return {}

    def fill_in(self, run: RunView, *, gpus: bool) -> None:
        """Replaces every null and `auto` by the value that it stands for, on a cluster with GPUs or without."""


class ModelConfig(Section):
    """`model`: the policy. The same overrides reach learner, vLLM and export."""

    model_config = ConfigDict(json_schema_extra={"required": ["path"]})

    path: str = Field(default="", description="Folder or Hugging Face id of the policy.")
    dtype: Dtype = Field(default="auto", description="auto: float32 on a CPU, bfloat16 on a GPU.")
    hf_overrides: dict[str, Any] = Field(
        default_factory=dict, description="Keys of the model's config.json to replace, e.g. rope_parameters."
    )
    tokenizer: str | None = Field(default=None, description="Folder or id of the tokenizer; null: that of `path`.")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Values for its chat template, as {enable_thinking: false}."
    )
    max_model_len: Positive | None = Field(
        default=None, description="Context of the engine in tokens; null: max_prompt_tokens + max_response_tokens."
    )
    trust_remote_code: bool = Field(default=False, description="Run Python code that ships with the model.")
    lora: LoraConfig | None = Field(
        default=None, description="Train adapters over the frozen model; null: train all weights."
    )

    def fill_in(self, run: RunView, *, gpus: bool) -> None:
        self.dtype = resolve_dtype(self.dtype, gpus=gpus)

    def rules(self, run: RunView) -> Iterator[str]:
        if not self.path:
            yield "model.path: required (folder or Hugging Face id of the policy)"
        if self.lora is not None:
            yield from self.lora.broken_rules(samples=run.needs_envs)

    def facts(self, run: RunView) -> dict[str, str]:
        return {} if self.lora is None else {"LoRA": self.lora.fact}


class LearnersConfig(Section):
    """`learners`: the Ray Train workers that hold weights and optimizer."""

    num_learners: Positive = Field(default=1, description="Data-parallel ranks.")
    engine: Literal["torch", "deepspeed"] = Field(
        default="torch", description="torch: AdamW, gradients summed over the ranks; deepspeed: ZeRO."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(default=0, description="DeepSpeed ZeRO stage; needs engine deepspeed.")
    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = Field(
        default="none", description="What lives in CPU memory; optimizer: ZeRO 1-3, parameters too: ZeRO 3."
    )
    token_budget: Positive | None = Field(
        default=None,
        description="Most tokens that a micro-batch computes, prompts and padding too; null: the longest episode, at "
        "least 16384.",
    )
    layout: Literal["auto", "padded", "packed", "shared_prompt"] = Field(
        default="auto",
        description="Arrangement of a micro-batch: padded, packed end to end, or shared_prompt (a group's prompt "
        "once); auto: packed on a GPU with flash attention, else padded.",
    )
    gradient_checkpointing: bool = Field(default=False, description="Recompute activations to save memory.")
    num_cpus_per_learner: NonNegativeFloat = Field(default=1.0, description="CPUs reserved in Ray for one learner.")
    num_gpus_per_learner: NonNegativeFloat | None = Field(
        default=None, description="GPUs of one learner; null: 1 where the cluster has GPUs, else 0."
    )
    threads_per_learner: Positive | None = Field(
        default=None, description="OpenMP threads; null: num_cpus_per_learner rounded down, at least 1."
    )

    def budget(self, longest: int) -> int:
        """Returns `token_budget`, or the value that null stands for with a longest sequence of `longest` tokens."""
        return self.token_budget or max(SMALLEST_TOKEN_BUDGET, longest)

    def fill_in(self, run: RunView, *, gpus: bool) -> None:
        # A sequence is never split, so a micro-batch holds at least the longest one.
        self.token_budget = self.budget(run.longest_episode())
        if self.num_gpus_per_learner is None:
            self.num_gpus_per_learner = 1.0 if gpus else 0.0
        if self.threads_per_learner is None:
            self.threads_per_learner = max(1, int(self.num_cpus_per_learner))
        if self.layout == "auto":
            self.layout = "packed" if gpus and packs(run.model) else "padded"

    def facts(self, run: RunView) -> dict[str, str]:
        return {"layout of a micro-batch": LAYOUTS[self.layout]}

    def rules(self, run: RunView) -> Iterator[str]:
        yield from self._strategy_rules()
        if self.layout == "shared_prompt" and self.gradient_checkpointing:
            yield (
                "learners.layout: shared_prompt needs learners.gradient_checkpointing false: a layer that is computed "
                "again in the backward pass would write its keys and values twice, so transformers drops the cache "
                "that the responses read the prompt from"
            )
        longest = run.longest_episode()
        if self.token_budget is not None and self.token_budget < longest:
            yield (
                f"learners.token_budget: must be >= {run.longest_episode_keys} = {longest}, got {self.token_budget}: "
                "one sequence has to fit"
            )

    def _strategy_rules(self) -> Iterator[str]:
        if self.engine == "torch":
            for key, value, default in (("zero_stage", self.zero_stage, 0), ("offload", self.offload, "none")):
                if value != default:
                    yield f"learners.{key}: {value} needs learners.engine deepspeed, got torch"
        elif self.offload == "optimizer" and self.zero_stage < 1:
            yield f"learners.offload: optimizer needs zero_stage >= 1, got {self.zero_stage}"
        elif self.offload == "optimizer_and_parameters" and self.zero_stage < 3:
            yield f"learners.offload: optimizer_and_parameters needs zero_stage 3, got {self.zero_stage}"


def packs(model: ModelConfig) -> bool:
    """Returns whether a learner on a GPU has flash attention for `model`, which wants half precision."""
    if resolve_dtype(model.dtype, gpus=True) != "bfloat16":
        return False
    return flash_attention(model.path, model.hf_overrides, trust_remote_code=model.trust_remote_code) is not None


def resolve_dtype(dtype: Dtype, *, gpus: bool) -> Literal["float32", "bfloat16"]:
    """Returns float32 or bfloat16, for `auto` float32 on a CPU and bfloat16 on a GPU."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if gpus else "float32"


class RunView(Protocol):
    """The part of a run that the `rules` and `facts` of its sections read. `RunConfig` has it."""

    needs_envs: ClassVar[bool]
    group_relative: ClassVar[bool]
    learner_groups: ClassVar[tuple[str, ...]]
    longest_episode_keys: ClassVar[str]

    @property
    def algorithm_path(self) -> str: ...

    @property
    def model(self) -> ModelConfig: ...

    @property
    def env_runners(self) -> EnvRunnersConfig: ...

    @property
    def learners(self) -> LearnersConfig: ...

    @property
    def uses_reference(self) -> bool: ...

    @property
    def starts_reference(self) -> bool: ...

    @property
    def syncs_later(self) -> bool: ...

    @property
    def num_iterations(self) -> int | None: ...

    def longest_episode(self) -> int: ...
