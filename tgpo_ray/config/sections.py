"""The sections that say who takes part: models, teachers, environments, runners, learners, and the Ray cluster."""

from __future__ import annotations

from collections.abc import ItemsView
from typing import Any, Literal, Protocol

from pydantic import ConfigDict, Field, RootModel, ValidationError

from tgpo_ray.config.errors import ConfigError, problems_of
from tgpo_ray.config.values import Bytes, Dtype, NonNegativeFloat, Positive, PositiveFloat, Section, Share, place_of

GIB = 2**30


class ModelConfig(Section):
    """`model`: the policy. The same overrides reach learner, vLLM and export."""

    model_config = ConfigDict(json_schema_extra={"required": ["path"]})

    path: str = Field(default="", description="Folder or Hugging Face id of the policy.")
    dtype: Dtype = Field(default="auto", description="auto: float32 on a CPU, bfloat16 on a GPU.")
    hf_overrides: dict[str, Any] = Field(
        default_factory=dict, description="Keys of the model's config.json to replace, e.g. rope_parameters."
    )
    tokenizer: str | None = Field(default=None, description="Folder or id of the tokenizer; null: that of `path`.")
    max_model_len: Positive | None = Field(
        default=None, description="Context of the engine in tokens; null: max_prompt_tokens + max_response_tokens."
    )
    trust_remote_code: bool = Field(default=False, description="Run Python code that ships with the model.")


class TeacherConfig(Section):
    """`teachers.<name>`: one pool of teacher actors."""

    model_config = ConfigDict(json_schema_extra={"required": ["path"]})

    path: str = Field(default="", description="Folder or Hugging Face id of the teacher.")
    backend: Literal["vllm", "transformers", "remote"] = Field(
        default="vllm", description="vllm or transformers in the actor, or remote: a server elsewhere."
    )
    url: str | None = Field(default=None, description="remote: the server's address, as http://host:8000.")
    served_model: str | None = Field(
        default=None, description="remote: the model's name there; null: the only one, else `path`."
    )
    api_key_env: str | None = Field(default=None, description="remote: environment variable with the server's key.")
    num_replicas: Positive = Field(default=1, description="Teacher actors; work goes to the least loaded.")
    tensor_parallel_size: Positive = Field(default=1, description="GPUs that one replica is split over.")
    prompt: Literal["policy", "own_template"] = Field(
        default="policy", description="policy: the teacher reads the policy's prompt; own_template: its chat template."
    )
    vocabulary: Literal["auto", "map", "text"] = Field(
        default="auto",
        description="map: ids by token string; text: by the text that both tokenizers cut at the same place; auto: "
        "text where they share less than nine tenths of their tokens.",
    )
    map_end_of_sequence: bool = Field(
        default=True, description="Where the teacher would end, the policy is taught its own end of sequence."
    )
    dtype: Dtype = Field(default="auto", description="auto: float32 on a CPU, bfloat16 on a GPU.")
    hf_overrides: dict[str, Any] = Field(
        default_factory=dict, description="Keys of the teacher's config.json to replace."
    )
    tokenizer: str | None = Field(default=None, description="Folder or id of the tokenizer; null: that of `path`.")
    num_cpus_per_replica: NonNegativeFloat = Field(default=1.0, description="CPUs reserved in Ray for one replica.")
    num_gpus_per_replica: NonNegativeFloat | None = Field(
        default=None, description="GPUs of one replica; null: tensor_parallel_size where the cluster has GPUs, else 0."
    )
    kv_cache_memory: Bytes = Field(default=GIB, description="vllm: KV cache of one replica: bytes, or text as 40GiB.")
    max_num_seqs: Positive = Field(
        default=256, description="Sequences that one replica scores at a time; remote: requests in flight."
    )
    token_budget: Positive = Field(
        default=16384, description="transformers: most tokens of one forward pass; a longer sequence goes alone."
    )
    cache_memory: Bytes | None = Field(
        default=64 * 2**20, description="Scores that one replica remembers, for equal ids, as 64MiB; null: none."
    )


class TeachersConfig(RootModel[dict[str, TeacherConfig]]):
    """`teachers`: the pools by name, read like a dict. Calling it sets one pool and returns the configuration."""

    model_config = ConfigDict(strict=True)
    __slots__ = ("_owner",)

    root: dict[str, TeacherConfig] = Field(default_factory=dict)

    def __call__(self, name: str = "default", /, **values: Any) -> Any:
        """Sets `values` of the pool `name`, made where it is new; ConfigError says what is wrong."""
        model, prefix = place_of(self)
        teacher = self.root.get(name, TeacherConfig())
        now = {key: getattr(teacher, key) for key in teacher.model_fields_set}
        try:
            self.root[name] = TeacherConfig.model_validate({**now, **values})
        except ValidationError as error:
            raise ConfigError(problems_of(error, model, prefix=(*prefix, name))) from None
        return getattr(self, "_owner", self)

    def __getitem__(self, name: str) -> TeacherConfig:
        return self.root[name]

    def __contains__(self, name: object) -> bool:
        return name in self.root

    def __len__(self) -> int:
        return len(self.root)

    def items(self) -> ItemsView[str, TeacherConfig]:
        return self.root.items()


class EvaluationEnvConfig(Section):
    """`evaluation.envs.<i>`: one held-out set."""

    id: str = Field(description="gymnasium id, as tgpo/Math-v0 or my_module:MyEnv-v0.", min_length=1)
    name: str | None = Field(default=None, description="Its name in metrics; null: taken from the id (Math).")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="Arguments of the environment.")

    @property
    def label(self) -> str:
        """The name in metrics: `name`, else the id without module, namespace and version (`tgpo/Math-v0`: `Math`)."""
        return self.name or self.id.split(":")[-1].split("/")[-1].rsplit("-v", 1)[0]


class EnvConfig(EvaluationEnvConfig):
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
    max_response_tokens: Positive = Field(default=2048, description="Longest response, in tokens.")
    stop: list[str] = Field(default_factory=list, description="Texts that end a response, beside end-of-sequence.")
    kv_cache_memory: Bytes = Field(default=GIB, description="KV cache of one engine: bytes, or text as 40GiB.")
    max_num_seqs: Positive = Field(default=256, description="Sequences that one engine decodes at a time.")
    num_cpus_per_env_runner: NonNegativeFloat = Field(default=1.0, description="CPUs reserved in Ray for one runner.")
    num_gpus_per_env_runner: NonNegativeFloat | None = Field(
        default=None, description="GPUs of one runner; null: tensor_parallel_size where the cluster has GPUs, else 0."
    )
    num_verifier_workers: Positive = Field(default=1, description="Verifier processes of one runner.")
    verify_deadline_s: PositiveFloat = Field(default=10.0, description="Seconds after which a verifier is killed.")


class LearnersConfig(Section):
    """`learners`: the Ray Train workers that hold weights and optimizer."""

    num_learners: Positive = Field(default=1, description="Data-parallel ranks.")
    engine: Literal["torch", "deepspeed"] = Field(default="torch", description="torch: plain torch or DDP.")
    zero_stage: Literal[0, 1, 2, 3] = Field(default=0, description="DeepSpeed ZeRO stage; needs engine deepspeed.")
    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = Field(
        default="none", description="What lives in CPU memory; optimizer: ZeRO 1-3, parameters too: ZeRO 3."
    )
    token_budget: Positive | None = Field(
        default=None,
        description="Most tokens (prompts and responses) of a micro-batch; null: the longest episode, at least 16384.",
    )
    gradient_checkpointing: bool = Field(default=False, description="Recompute activations to save memory.")
    num_cpus_per_learner: NonNegativeFloat = Field(default=1.0, description="CPUs reserved in Ray for one learner.")
    num_gpus_per_learner: NonNegativeFloat | None = Field(
        default=None, description="GPUs of one learner; null: 1 where the cluster has GPUs, else 0."
    )
    threads_per_learner: Positive | None = Field(
        default=None, description="OpenMP threads; null: num_cpus_per_learner rounded down, at least 1."
    )


class RayConfig(Section):
    """`ray`: the cluster. Within `ray job submit`, or with RAY_ADDRESS set, both keys stay null."""

    address: str | None = Field(default=None, description="Cluster to join; null: RAY_ADDRESS, else start a local one.")
    num_cpus: Positive | None = Field(default=None, description="CPUs of a local cluster; null: all cores.")


def resolve_dtype(dtype: Dtype, *, gpus: bool) -> Literal["float32", "bfloat16"]:
    """Returns float32 or bfloat16; `auto` is float32 on a CPU and bfloat16 on a GPU."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if gpus else "float32"


class RunView(Protocol):
    """What the rules of one section may look at of the others."""

    algorithm: str
    env_runners: EnvRunnersConfig
