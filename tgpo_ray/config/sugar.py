"""The shorthand of the YAML file: `teacher` for a map of one teacher, `env` for a list of one, empty sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

SHORTHAND: dict[str, tuple[str | int, ...]] = {"teacher": ("teachers", "default"), "env": ("envs", 0)}


def desugar(data: Mapping[str, Any], model: type[BaseModel]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns `data` in the full form of `model`, and the user's word for each path that has a short form.

    ValueError where the file has both forms. A section without keys (`reporting:`) means its defaults.
    """
    full = {key: value for key, value in data.items() if not _is_empty_section(key, value, model)}
    words: dict[str, str] = {}
    for short, (section, place) in SHORTHAND.items():
        if short not in full or section not in model.model_fields:
            continue
        if section in full:
            raise ValueError(f"{short}: `{section}` is given too; `{short}` is short for it, keep one")
        value = full.pop(short)
        full[section] = {place: value} if isinstance(place, str) else [value]
        words[f"{section}.{place}"] = short
    return full, words


def expand_path(parts: list[str], model: type[BaseModel]) -> list[str]:
    """Returns an override's path in the full form: `teacher.path` is `teachers.default.path`."""
    full = SHORTHAND.get(parts[0])
    if full is None or str(full[0]) not in model.model_fields:
        return parts
    return [*map(str, full), *parts[1:]]


def _is_empty_section(key: str, value: object, model: type[BaseModel]) -> bool:
    field = model.model_fields.get(key)
    return value is None and field is not None and field.default_factory is not None
