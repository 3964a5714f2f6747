"""The messages about a wrong configuration, one line a problem, in the words of the YAML file."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, RootModel, ValidationError
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]

OTHER_NAMES = {
    "learning_rate": "training.lr",
    "num_rollouts": "training.group_size",
    "num_generations": "training.group_size",
    "num_epochs": "training.num_iterations",
    "num_steps": "training.num_iterations",
    "epsilon": "training.clip_low",
    "entropy_coef": "training.entropy_weight",
    "max_tokens": "env_runners.max_response_tokens",
    "max_new_tokens": "env_runners.max_response_tokens",
    "gpu_memory_utilization": "env_runners.kv_cache_memory",
    "num_workers": "env_runners.num_env_runners",
}
"""Name of a key in other trainers, without its section -> our key."""

EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "finite_number": "a finite number",
}
BOUNDS = {"greater_than": ("gt", ">"), "greater_than_equal": ("ge", ">="), "less_than": ("lt", "<"),
          "less_than_equal": ("le", "<=")}  # fmt: skip


class ConfigError(ValueError):
    """A configuration that cannot run. `problems` has one line for each mistake."""

    def __init__(self, problems: Iterable[str], source: str = "") -> None:
        self.problems = list(problems)
        self.source = source
        lines = [f"{source}: {problem}" if source else problem for problem in self.problems]
        super().__init__("\n".join(lines))


def problems_of(
    error: ValidationError,
    model: type[BaseModel],
    *,
    prefix: Location = (),
    words: Mapping[str, str] | None = None,
) -> list[str]:
    """Returns one line for each error that pydantic found.

    Args:
        model: the whole configuration's class, whose keys are proposed.
        prefix: where in `model` the checked data belongs.
        words: our paths -> as the user wrote them, e.g. `{"teachers.default": "teacher"}`.
    """
    return [_describe(details, (*prefix, *details["loc"]), model, words or {}) for details in error.errors()]


def dotted(location: Iterable[int | str], words: Mapping[str, str] | None = None) -> str:
    """Returns `envs.0.id` for `("envs", 0, "id")`, with the user's own prefix where `words` has one."""
    path = ".".join(str(part) for part in location)
    for ours, theirs in (words or {}).items():
        if path == ours or path.startswith(f"{ours}."):
            return theirs + path[len(ours) :]
    return path


def _describe(details: ErrorDetails, location: Location, model: type[BaseModel], words: Mapping[str, str]) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    where = dotted(location, words)
    if kind in ("extra_forbidden", "no_such_attribute"):
        return unknown_key(location, model, words)
    if kind == "missing":
        return f"{where}: required{_hint(location, model)}"
    if kind in EXPECTED:
        return f"{where}: expected {EXPECTED[kind]}, got {value!r}{_hint(location, model)}"
    if kind == "literal_error":
        return f"{where}: expected {context['expected']}, got {value!r}{_nearest_literal(value, context['expected'])}"
    if kind in BOUNDS:
        key, sign = BOUNDS[kind]
        bound = context[key] if isinstance(context[key], int) else f"{context[key]:g}"
        return f"{where}: must be {sign} {bound}, got {value!r}{_hint(location, model)}"
    if kind == "value_error":
        return f"{where}: {context['error']}" if where else str(context["error"])
    return f"{where}: {details['msg']}, got {value!r}"


def _nearest_literal(value: object, expected: str) -> str:
    names = expected.replace(" or ", ", ").replace("'", "").split(", ")
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _hint(location: Location, model: type[BaseModel]) -> str:
    """Returns the description of the field at `location` in brackets, or "" where there is none."""
    current: type[BaseModel] | None = model
    description = None
    for part in location:
        if current is not None and part in current.model_fields:
            field = current.model_fields[str(part)]
            description, current = field.description, model_in(field.annotation)
    return f" ({description.rstrip('.')})" if description else ""


# ---- unknown keys


def unknown_key(location: Location, model: type[BaseModel], words: Mapping[str, str] | None = None) -> str:
    """Returns the message for a key that no section has, with the nearest key of the whole file."""
    where = dotted(location, words)
    near = nearest_path(location, known_paths(model))
    if near is None:
        return f"{where}: unknown key"
    return f"{where}: unknown key; did you mean {dotted(near, words)!r}?"


def known_paths(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields every path of `model`. `*` stands for a name or an index that the user chooses."""
    for name, field in model.model_fields.items():
        path = (*prefix, name)
        yield path
        inner = model_in(field.annotation)
        if inner is not None:
            yield from known_paths(inner, (*path, "*") if is_collection(field.annotation) else path)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Returns the model inside an annotation such as `X`, `X | None`, `list[X]`, `dict[str, X]`; None if none is."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, RootModel):
            return model_in(annotation.model_fields["root"].annotation)
        return annotation if issubclass(annotation, BaseModel) else None
    return next((model for arg in typing.get_args(annotation) if (model := model_in(arg))), None)


def is_collection(annotation: Any) -> bool:
    """Whether names or indices of the user's choice stand between a field and the model inside it."""
    is_root = isinstance(annotation, type) and issubclass(annotation, RootModel)
    return is_root or typing.get_origin(annotation) in (list, dict)


def nearest_path(location: Location, paths: Iterable[tuple[str, ...]]) -> Location | None:
    """Returns the path most like `location`, with `_` and `.` equal, or None where nothing is near.

    A misspelled key has its neighbour in the same section. A well spelled one may be in the wrong section, or contain
    the section's name (`training.guidance_weight` is `guidance.weight`). All three are compared.
    """
    candidates = [fill_wildcards(path, location) for path in paths]
    other = OTHER_NAMES.get(str(location[-1]))
    if other is not None and tuple(other.split(".")) in candidates:
        return tuple(other.split("."))
    score, best = max(
        ((likeness(location, path), path) for path in candidates), key=lambda pair: pair[0], default=(0.0, None)
    )
    return best if score >= 0.7 else None


def likeness(location: Location, path: Location) -> float:
    """Returns the likeness of two keys, 0 to 1. The same section breaks ties."""
    key, leaf = flat(location[-1:]), flat(path[-1:])
    same_section = location[:-1] == path[:-1]
    # In turn: a misspelled path, a key with its section's name, the same key in another section.
    scores = (0.9 * ratio(flat(location), flat(path)), ratio(key, flat(path)), 0.95 * ratio(key, leaf))
    return max(scores) + (0.05 if same_section else 0.0)


def fill_wildcards(path: tuple[str, ...], location: Location) -> Location:
    """Returns `path` with `*` replaced by what `location` has there, or by the first name that a user would write."""
    filled: list[int | str] = []
    for position, part in enumerate(path):
        if part != "*":
            filled.append(part)
        elif tuple(filled) == location[:position] and len(location) > position:  # the user's own name or index
            filled.append(location[position])
        else:
            filled.append("default" if path[position - 1] == "teachers" else 0)
    return tuple(filled)


def flat(location: Location) -> str:
    """Returns the path in lower case with `_` between its parts."""
    return "_".join(str(part) for part in location).replace(".", "_").lower()


def ratio(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()
