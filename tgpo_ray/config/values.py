"""The types of value that sections share, and their strict base class."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticKnownError

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


MAX_SEED = 2**32 - 1  # numpy and vLLM seed 32 bits
MAX_NAME_BYTES = 200  # a file's name has at most 255 bytes, and a second run of the name appends `-2`
_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f]")


def check_folder_name(name: str) -> str:
    """Returns `name`; ValueError where it cannot name a folder beside others."""
    fix = "write a name without / and \\, as tgpo-math-1"
    if not name.strip() or name in (".", ".."):
        raise ValueError(f"must name a folder, got {name!r}: {fix}")
    if _NO_NAME.search(name):
        raise ValueError(
            f"must be the name of one folder, not a path and without control characters, got {name!r}: {fix}"
        )
    if name != name.strip() or name.startswith("-"):
        raise ValueError(f"must begin and end with no blank and begin with no hyphen, got {name!r}: {fix}")
    if len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise ValueError(f"must have at most {MAX_NAME_BYTES} bytes, got {len(name.encode())}: shorten it")
    return name


def check_text(value: Any) -> Any:
    """Returns the value; ValueError for a text, or one in a list, that no file name, page or tokenizer takes."""
    if isinstance(value, list):
        for item in value:
            check_text(item)
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError(f"a text has no NUL character, got {value!r}: delete it")
        if not value.isascii() and (half := next((c for c in value if "\ud800" <= c <= "\udfff"), None)):
            raise ValueError(f"{half!r} is half of a character (a lone surrogate), got {value!r}: write it whole")
    return value


FolderName = Annotated[
    str, AfterValidator(check_folder_name), WithJsonSchema({"type": "string", "pattern": r"^[^/\\\x00-\x1f]+$"})
]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
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


def parse_auto_bytes(value: Any) -> int | Literal["auto"]:
    """Returns `auto`, or bytes as `Bytes` takes them. A union's message would name each of its branches."""
    if value == "auto":
        return "auto"
    count = parse_bytes(value)
    if isinstance(count, bool) or not isinstance(count, int):
        raise PydanticKnownError("int_type")
    if count < 1:
        raise PydanticKnownError("greater_than_equal", {"ge": 1})
    return count


AutoBytes = Annotated[
    int | Literal["auto"],
    PlainValidator(parse_auto_bytes),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": BYTES_PATTERN},
            ]
        }
    ),
]
"""Bytes of a KV cache, or `auto`: on a CPU `CPU_KV_CACHE`, on a GPU what is left of the actor's share of the card."""

CPU_KV_CACHE = 2**30


def resolve_kv_cache(memory: int | Literal["auto"], *, gpus: float | None) -> int | Literal["auto"]:
    """Returns `memory`, for `auto` on an actor without GPUs `CPU_KV_CACHE`."""
    return CPU_KV_CACHE if memory == "auto" and not gpus else memory


def format_kv_cache(memory: int | Literal["auto"]) -> str:
    """Returns `memory` as text: `40GiB` or `auto`."""
    return "auto" if memory == "auto" else format_bytes(memory)


LAYOUTS = {
    "auto": "auto: packed on a GPU where transformers has flash attention for the model, else padded",
    "padded": "padded: each sequence to the length of the longest",
    "packed": "packed: sequences end to end in one row, without padding",
    "shared_prompt": "shared_prompt: the prompt of a group once, its responses on the prompt's keys and values",
}
"""The lines of `plan` for the values of `learners.layout`."""


class Strict(BaseModel):
    """A pydantic model that refuses unknown keys and text in place of numbers, and also checks assignments."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_plain_text(cls, value: Any) -> Any:
        return check_text(value)
