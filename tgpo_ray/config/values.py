"""The base class of every section, and the kinds of value that sections share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from tgpo_ray.config.errors import ConfigError, problems_of, unknown_key

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
    """A pydantic model that refuses unknown keys, refuses text where a number is due, and checks assignments too."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=True, allow_inf_nan=False)

    if not TYPE_CHECKING:  # a type checker that saw this would accept an assignment to any name

        def __setattr__(self, name: str, value: Any) -> None:
            model, prefix = place_of(self)
            if not name.startswith("_") and name not in type(self).model_fields:
                raise ConfigError([unknown_key((*prefix, name), model)])
            try:
                super().__setattr__(name, value)
            except ValidationError as error:
                raise ConfigError(problems_of(error, model, prefix=prefix)) from None


class Section(Strict):
    """One section of a configuration; calling it sets some of its values and returns the configuration.

        config.training(lr=1e-4, group_size=4).learners(num_learners=2)

    A configuration binds a section to itself whenever the section is read from it. The slot is no pydantic field, so
    that comparing, copying and pickling never follow it back to the configuration.
    """

    __slots__ = ("_owner",)

    def __call__(self, **values: Any) -> Any:
        """Sets all of `values` or, where one of them is wrong, none; ConfigError says what is wrong."""
        now = {name: getattr(self, name) for name in self.model_fields_set}
        model, prefix = place_of(self)
        try:
            updated = type(self).model_validate({**now, **values})
        except ValidationError as error:
            raise ConfigError(problems_of(error, model, prefix=prefix)) from None
        for name in values:
            setattr(self, name, getattr(updated, name))
        return getattr(self, "_owner", self)


def place_of(section: BaseModel) -> tuple[type[BaseModel], tuple[str, ...]]:
    """Returns the class of the configuration that `section` was read from, and its path there."""
    owner = getattr(section, "_owner", None)
    if owner is None:
        return type(section), ()
    names = [name for name, value in vars(owner).items() if value is section]
    return (type(owner), (names[0],)) if names else (type(section), ())
