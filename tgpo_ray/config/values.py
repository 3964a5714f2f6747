"""The types of value that sections share, and their strict base class."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

BYTE_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}
BYTES_PATTERN = r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*$"


def parse_bytes(value: Any) -> Any:
    """Returns a number of bytes from `"40GiB"`, `"512MiB"` or an int; ValueError for any other text."""
    if not isinstance(value, str):
        return value
    match = re.match(BYTES_PATTERN, value)
    factor = {unit.lower(): size for unit, size in BYTE_UNITS.items()}.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"expected bytes, as 40GiB, 512MiB or a whole number, got {value!r}")
    return int(float(match[1]) * factor)


def format_bytes(count: float) -> str:
    """Returns `count` in the largest binary unit that it fills, as `1.5GiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if count >= BYTE_UNITS[unit]:
            return f"{count / BYTE_UNITS[unit]:.4g}{unit}"
    return f"{count:g}B"


Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Dtype = Literal["auto", "float32", "bfloat16"]
Bytes = Annotated[
    int,
    BeforeValidator(parse_bytes),
    Field(ge=1),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": BYTES_PATTERN}]}),
]


class Strict(BaseModel):
    """A pydantic model that refuses unknown keys and text in place of numbers, and also checks assignments."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=True, allow_inf_nan=False)
