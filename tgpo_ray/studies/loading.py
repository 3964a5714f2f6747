"""A study's YAML file over those that it extends, with the names in its texts filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tgpo_ray.config import ConfigError, apply_override, load_file, parse_override, problems_of, unshared
from tgpo_ray.studies.definition import EXTENDS, HERE, KEEPS, SEED, SET, VALUES, VARIANTS, StudyConfig


def load_study(path: str | Path, overrides: Iterable[str] = ()) -> StudyConfig:
    """Returns the study in a YAML file over those that it extends, with the bases' paths made absolute.

    `extends` names one file or several, of which a later one goes over an earlier one.

    Args:
        overrides: `seeds=[0,1]`, `at_once=2`; `set.training.lr=1e-4` sets a key of the runs.

    Raises:
        ConfigError: a line for each mistake.
    """
    data = _with_extended(Path(path), ())
    data.setdefault("name", Path(path).stem)
    for override in overrides:
        parts, value = parse_override(override)
        if parts[0] == SET and len(parts) > 1:
            data[SET] = {**data.get(SET, {}), ".".join(parts[1:]): value}
        else:
            apply_override(data, parts, value)
    try:
        return StudyConfig.model_validate(_with_values(data))
    except ValidationError as error:
        raise ConfigError(problems_of(error, StudyConfig), str(path)) from None


def _with_extended(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The mapping in a file over that of the file which it extends: variants and `set` add up, the rest replaces."""
    if path.resolve() in above:
        raise ConfigError([f"extends: {path} extends itself"], str(path))
    data = filled(load_file(path), {HERE: str(path.parent)})
    if problems := list(_wrong_kinds(data)):
        raise ConfigError(problems, str(path))
    for holder in [data, *(_map(data, VARIANTS).values())]:
        if holder and "base" in holder:
            holder["base"] = _beside(path, holder["base"])
    extended, kept = data.pop(EXTENDS, None) or [], data.pop(KEEPS, None)
    lower: dict[str, Any] = {}
    for name in [extended] if isinstance(extended, str) else extended:
        lower = _over(lower, _with_extended(path.parent / name, (*above, path.resolve())))
    lower.pop("name", None)
    known = _map(lower, VARIANTS)
    gone = [name for name, values in _map(data, VARIANTS).items() if values is None]
    if unknown := sorted({*(kept or ()), *gone} - {*known}):
        there = ", ".join(known) or "none, because it extends no study"
        raise ConfigError([f"variants of the extended study: there is no {unknown[0]!r} ({there})"], str(path))
    if kept is not None:
        lower[VARIANTS] = {name: values for name, values in known.items() if name in kept}
    return _over(lower, data)


def _wrong_kinds(data: Mapping[str, Any]) -> Iterable[str]:
    """What is no map, or no list of names, where the files of a study are put together."""
    for key in (VARIANTS, SET):
        if not isinstance(data.get(key) or {}, dict):
            yield f"{key}: must be a map, got {data[key]!r:.100}"
    for name, values in _map(data, VARIANTS).items():
        if not isinstance(values or {}, dict) or not isinstance((values or {}).get(SET) or {}, dict):
            yield f"{VARIANTS}.{name}: must be a map, as its `set` must, got {values!r:.100}"
    for key in (EXTENDS, KEEPS):
        names = data.get(key) or []
        single = key == EXTENDS and isinstance(names, str)
        if not single and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            yield f"{key}: must be a list of names, got {names!r:.100}"


def _over(lower: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    variants = unshared(_map(lower, VARIANTS))
    for name, values in _map(data, VARIANTS).items():
        if values is None:
            variants.pop(name, None)
        else:
            variants[name] = {**variants.get(name, {}), **values, SET: _changed(variants.get(name), values)}
    return {**lower, **data, VARIANTS: variants, SET: _changed(lower, data)}


def _changed(lower: Mapping[str, Any] | None, upper: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of both `set`; a section that the upper one gives as a whole takes the place of the lower one's keys."""
    earlier, later = _map(lower, SET), _map(upper, SET)
    return {key: value for key, value in earlier.items() if key.partition(".")[0] not in later} | later


def _with_values(data: dict[str, Any]) -> dict[str, Any]:
    """The study with the values of `values` for their names in its texts.

    Raises:
        ConfigError: a name that is taken.
    """
    values = data.get(VALUES)
    if not isinstance(values, dict):
        return data
    if taken := {SEED, HERE} & {f"{{{name}}}" for name in values}:
        raise ConfigError([f"values: {', '.join(sorted(taken))} has a meaning of its own, take another name"])
    return filled(data, {f"{{{name}}}": value for name, value in values.items()})


def filled(value: Any, values: Mapping[str, Any]) -> Any:
    """The value with other values for the names in its texts; a text that is a name alone becomes its value."""
    if isinstance(value, str):
        if value in values:
            return values[value]
        for name, replacement in values.items():
            value = value.replace(name, str(replacement))
        return value
    if isinstance(value, Mapping):
        return {key: filled(item, values) for key, item in value.items()}
    return [filled(item, values) for item in value] if isinstance(value, list) else value


def _map(holder: Mapping[str, Any] | None, key: str) -> dict[str, Any]:
    found = (holder or {}).get(key)
    return found if isinstance(found, dict) else {}


def _beside(path: Path, base: Any) -> Any:
    """The bases' files as absolute paths. Sections that stand in the study itself stay."""
    if isinstance(base, str) and "://" not in base:
        return str((path.parent / base).resolve())
    return [_beside(path, each) for each in base] if isinstance(base, list) else base
