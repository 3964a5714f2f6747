"""Writes the tables of docs/configuration.md from the pydantic models.

python docs/generate_configuration.py            writes them
python docs/generate_configuration.py --check    exits 1 if the page is not up to date
"""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

from generated import with_part, write_or_check
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tgpo_ray.algorithms import SFTConfig, TGPOConfig
from tgpo_ray.config import EnvConfig, EvaluationEnvConfig, LoraConfig, TeacherConfig, format_bytes

PAGE = Path(__file__).with_name("configuration.md")
FIRST = ("model", "teachers", "envs", "env_runners", "learners", "training", "guidance")


def sections() -> dict[str, type[BaseModel]]:
    """Heading -> model: the sections of TGPO, what their lists and maps hold, and what SFT has beside them."""
    models: dict[str, type[BaseModel]] = {}
    fields = TGPOConfig.model_fields
    for name in [*FIRST, *(name for name in fields if name not in FIRST)]:
        field = fields[name]
        if name == "envs":
            models["envs[i]"] = EnvConfig
        elif name == "teachers":
            models["teachers.<name>"] = TeacherConfig
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            models[name] = field.annotation
        if name == "model":
            models["model.lora"] = LoraConfig
        if name == "evaluation":
            models["evaluation.envs[i]"] = EvaluationEnvConfig
    for name in ("data", "training"):
        annotation = SFTConfig.model_fields[name].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        models[f"{name} (SFT)"] = annotation
    return models


def type_name(annotation: Any) -> str:
    """The type as a reader of YAML knows it: `int | null`, `argmax | sample`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_name(argument) for argument in arguments)
    if origin is typing.Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (list, tuple):
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return "map"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "map"
    return {str: "text", bool: "true | false", float: "number", int: "integer"}.get(annotation, str(annotation))


def default_of(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if field.is_required() or value == "":
        return "required"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return str(value)


def table(name: str, model: type[BaseModel]) -> str:
    rows = [f"### `{name}`", "", "| key | type | default | |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        kind, default = type_name(field.annotation), default_of(field)
        if key.endswith("_memory"):
            default = default if default == "auto" else format_bytes(float(default))
            kind = "bytes, as 40GiB" + " | auto" * (default == "auto")
        cells = (f"`{key}`", kind, f"`{default}`", field.description or "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def main() -> None:
    tables = "\n\n".join(table(name, model) for name, model in sections().items())
    script = Path(__file__).name
    write_or_check({PAGE: with_part(PAGE, script, tables)}, script)


if __name__ == "__main__":
    main()
