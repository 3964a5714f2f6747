"""Which keys of a teacher belong to which backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tgpo_ray.config.resolving import teachers_of
from tgpo_ray.config.values import format_bytes

if TYPE_CHECKING:
    from tgpo_ray.config.run_config import RunConfig
    from tgpo_ray.config.sections import TeacherConfig

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


def teacher_backends_fit(config: RunConfig) -> Iterator[str]:
    for name, teacher in teachers_of(config).items():
        yield from _foreign_keys(f"teachers.{name}", teacher)
        if teacher.backend != "remote":
            continue
        if teacher.url is None:
            yield f"teachers.{name}.url: required with backend remote: the server's address, as http://host:8000"
        elif not teacher.url.startswith(("http://", "https://")):
            yield f"teachers.{name}.url: must begin with http:// or https://, got {teacher.url!r}"
        if teacher.num_gpus_per_replica:
            yield (
                f"teachers.{name}.num_gpus_per_replica: must be 0 with backend remote, got "
                f"{teacher.num_gpus_per_replica:g}: the model lives in the server"
            )


def _foreign_keys(where: str, teacher: TeacherConfig) -> Iterator[str]:
    for key, backends in BACKENDS_OF.items():
        value: Any = getattr(teacher, key)
        if teacher.backend in backends or value == type(teacher).model_fields[key].get_default(
            call_default_factory=True
        ):
            continue
        shown = format_bytes(value) if key == "kv_cache_memory" else value
        owners = " and ".join(backends)
        yield f"{where}.{key}: belongs to backend {owners}, got {shown} with backend {teacher.backend}; leave it out"
