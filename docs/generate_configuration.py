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
from tgpo_ray.config import (
    EnvConfig,
    EvaluationEnvConfig,
    LoraConfig,
    TeacherConfig,
    format_bytes,
    known_algorithms,
    resolve_algorithm,
)

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


def further() -> dict[tuple[str, str, str, str], list[str]]:
    """Row (key, type, default, description) -> the methods that have it, where TGPO and SFT's tables do not."""
    known = {(name.partition(" ")[0], key) for name, model in sections().items() for key in model.model_fields}
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for method in sorted(known_algorithms()):
        config = resolve_algorithm(method)
        for section, field in config.model_fields.items():
            if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
                continue
            for key, it in field.annotation.model_fields.items():
                if key != "root" and (section, key) not in known:
                    row = (f"{section}.{key}", *cells_of(key, it))
                    rows.setdefault(row, []).append(method)
    return rows


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


def cells_of(key: str, field: FieldInfo) -> tuple[str, str, str]:
    """Type, default and description."""
    kind, default = type_name(field.annotation), default_of(field)
    if key.endswith("_memory"):
        default = default if default == "auto" else format_bytes(float(default))
        kind = "bytes, as 40GiB" + " | auto" * (default == "auto")
    return kind, f"`{default}`", field.description or ""


def line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(name: str, model: type[BaseModel]) -> str:
    rows = [f"### `{name}`", "", "| key | type | default | |", "|---|---|---|---|"]
    rows += [line(f"`{key}`", *cells_of(key, field)) for key, field in model.model_fields.items()]
    return "\n".join(rows)


def further_table() -> str:
    rows = ["### Keys of other methods", "", "| key | methods | type | default | |", "|---|---|---|---|---|"]
    for (key, *cells), methods in sorted(further().items(), key=lambda row: row[0]):
        rows.append(line(f"`{key}`", ", ".join(methods), *cells))
    return "\n".join(rows)


def main() -> None:
    tables = "\n\n".join([*(table(name, model) for name, model in sections().items()), further_table()])
    script = Path(__file__).name
    write_or_check({PAGE: with_part(PAGE, script, tables)}, script)


if __name__ == "__main__":
    main()
