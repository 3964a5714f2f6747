"""`teachers`: the pools of teacher actors, and the backends to which their keys belong."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator
from typing import Any, Literal

from pydantic import ConfigDict, Field, RootModel, ValidationError

from tgpo_ray.config.errors import ConfigError, problems_of
from tgpo_ray.config.sections import KV_CACHE_VALUES, RunView, Section, owner_of, place_of, resolve_dtype
from tgpo_ray.config.values import (
    AutoBytes,
    Bytes,
    Dtype,
    NonNegativeFloat,
    Positive,
    format_kv_cache,
    resolve_kv_cache,
)

# A key that is not here belongs to all backends.
BACKENDS_OF = {
    "url": ("remote",),
    "served_model": ("remote",),
    "api_key_env": ("remote",),
    "token_budget": ("transformers",),
    "kv_cache_memory": ("vllm",),
    "tensor_parallel_size": ("vllm",),
    "max_num_seqs": ("vllm", "remote"),
    "hf_overrides": ("vllm", "transformers"),
}


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
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Values for its own chat template (own_template, traces)."
    )
    num_cpus_per_replica: NonNegativeFloat = Field(default=1.0, description="CPUs reserved in Ray for one replica.")
    num_gpus_per_replica: NonNegativeFloat | None = Field(
        default=None, description="GPUs of one replica; null: tensor_parallel_size where the cluster has GPUs, else 0."
    )
    kv_cache_memory: AutoBytes = Field(default="auto", description=f"vllm: KV cache of one replica: {KV_CACHE_VALUES}")
    max_num_seqs: Positive = Field(
        default=256, description="Sequences that one replica scores at a time; remote: requests in flight."
    )
    token_budget: Positive = Field(
        default=16384, description="transformers: most tokens of one forward pass; a longer sequence goes alone."
    )
    cache_memory: Bytes | None = Field(
        default=64 * 2**20, description="Scores that one replica remembers, for equal ids, as 64MiB; null: none."
    )

    def fill_in(self, run: RunView, *, gpus: bool) -> None:
        self.dtype = resolve_dtype(self.dtype, gpus=gpus)
        if self.num_gpus_per_replica is None:
            local = gpus and self.backend != "remote"
            self.num_gpus_per_replica = float(self.tensor_parallel_size if local else 0)
        if self.backend == "vllm":  # another backend has no KV cache, and its key stays as if left out
            self.kv_cache_memory = resolve_kv_cache(self.kv_cache_memory, gpus=self.num_gpus_per_replica)

    def broken_rules(self, where: str) -> Iterator[str]:
        """Yields a line for each rule that the pool called `where` breaks."""
        if not self.path:
            yield f"{where}.path: required (folder or Hugging Face id of the teacher)"
        yield from self._foreign_keys(where)
        if self.backend == "remote":
            yield from self._server_rules(where)

    def _server_rules(self, where: str) -> Iterator[str]:
        if self.url is None:
            yield f"{where}.url: required with backend remote: the server's address, as http://host:8000"
        elif not self.url.startswith(("http://", "https://")):
            yield f"{where}.url: must begin with http:// or https://, got {self.url!r}"
        if self.num_gpus_per_replica:
            yield (
                f"{where}.num_gpus_per_replica: must be 0 with backend remote, got "
                f"{self.num_gpus_per_replica:g}: the model lives in the server"
            )

    def _foreign_keys(self, where: str) -> Iterator[str]:
        for key, backends in BACKENDS_OF.items():
            value = getattr(self, key)
            default = type(self).model_fields[key].get_default(call_default_factory=True)
            if self.backend in backends or value == default:
                continue
            shown = format_kv_cache(value) if key == "kv_cache_memory" else value
            owners = " and ".join(backends)
            yield f"{where}.{key}: belongs to backend {owners}, got {shown} with backend {self.backend}; leave it out"


class TeachersConfig(RootModel[dict[str, TeacherConfig]]):
    """`teachers`: the pools by name, as in a dict. Calling it sets one pool and returns the configuration."""

    model_config = ConfigDict(strict=True)
    __slots__ = ("_binding",)

    root: dict[str, TeacherConfig] = Field(default_factory=dict)

    def __call__(self, name: str = "default", /, **values: Any) -> Any:
        """Sets `values` of the pool `name`, which may be new; ConfigError where a value is wrong."""
        model, prefix = place_of(self)
        teacher = self.root.get(name, TeacherConfig())
        present = {key: getattr(teacher, key) for key in teacher.model_fields_set}
        try:
            self.root[name] = TeacherConfig.model_validate({**present, **values})
        except ValidationError as error:
            raise ConfigError(problems_of(error, model, prefix=(*prefix, name))) from None
        return owner_of(self)

    def rules(self, run: RunView) -> Iterator[str]:
        """Yields a line for each rule that a pool breaks."""
        for name, teacher in self.items():
            yield from teacher.broken_rules(f"teachers.{name}")

    def facts(self, run: RunView) -> dict[str, str]:
        """Returns no lines, because those of `guidance` say when teachers are called."""
        return {}

    def fill_in(self, run: RunView, *, gpus: bool) -> None:
        """Replaces null and `auto` in each pool."""
        for _, teacher in self.items():
            teacher.fill_in(run, gpus=gpus)

    def __getitem__(self, name: str) -> TeacherConfig:
        return self.root[name]

    def __contains__(self, name: object) -> bool:
        return name in self.root

    def __len__(self) -> int:
        return len(self.root)

    def items(self) -> ItemsView[str, TeacherConfig]:
        return self.root.items()
