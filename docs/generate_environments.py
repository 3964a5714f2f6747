"""Writes the option tables of docs/environments.md from the dataclasses in `envs/`.

python docs/generate_environments.py            writes them
python docs/generate_environments.py --check    exits 1 if the page is not up to date
"""

from __future__ import annotations

import importlib
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from generated import with_part, write_or_check

from tgpo_ray.envs import REGISTERED
from tgpo_ray.envs.adapters import LibraryOptions
from tgpo_ray.envs.options import Options, options_of
from tgpo_ray.envs.prompt_options import PromptOptions
from tgpo_ray.envs.row_options import RowOptions, SourceOptions
from tgpo_ray.envs.sandbox_options import SandboxOptions
from tgpo_ray.envs.verifiers import VerifierOptions

PAGE = Path(__file__).with_name("environments.md")
GROUPS: dict[type[Options], str] = {
    SourceOptions: "data set",
    RowOptions: "columns",
    PromptOptions: "prompt",
    VerifierOptions: "verifier",
    SandboxOptions: "sandbox",
    LibraryOptions: "library",
}
"""The groups that several environments share, or that belong together, and their headings."""
WORDS = {"str": "text", "bool": "true / false", "float": "number", "int": "integer", "None": "null", "Any": "anything"}


def environments() -> dict[str, type[Options]]:
    """The options of each environment by its id."""
    options: dict[str, type[Options]] = {}
    for env_id, entry_point in REGISTERED.items():
        module, _, name = entry_point.partition(":")
        env_options = options_of(getattr(importlib.import_module(module), name))
        assert env_options is not None, f"{env_id} takes plain arguments"
        options[env_id] = env_options
    return options


def type_name(annotation: str) -> str:
    """The type as a reader of YAML knows it: `integer | null`, `list | map`."""
    outer = annotation
    while "[" in outer:  # what a list or map holds is in the text of the option
        start = outer.rindex("[")
        outer = outer[:start] + outer[outer.index("]", start) + 1 :]
    words = {**WORDS, "Sequence": "list", "Mapping": "map"}
    return " | ".join(words[part] for part in outer.split(" | "))


def default_of(option: Field[Any]) -> str:
    if option.default is MISSING:
        return "required"
    if option.default is None or isinstance(option.default, bool):
        return {None: "null", True: "true", False: "false"}[option.default]
    return str(list(option.default) if isinstance(option.default, tuple) else option.default)


def own_options(options: type[Options]) -> list[Field[Any]]:
    """The options that the class itself declares, those that replace a base's included."""
    return [option for option in fields(options) if option.name in options.__annotations__]


def table(options: type[Options]) -> list[str]:
    texts = options.texts()
    rows = ["| option | type | default | |", "|---|---|---|---|"]
    for option in own_options(options):
        cells = (f"`{option.name}`", type_name(str(option.type)), f"`{default_of(option)}`", texts[option.name])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def shared(options: type[Options], env_ids: dict[type[Options], str]) -> list[str]:
    """The names of the tables that an environment takes besides its own."""
    bases = [base for base in reversed(options.__mro__[1:]) if base in GROUPS or base in env_ids]
    environment = next((base for base in options.__mro__[1:] if base in env_ids), None)
    if environment is not None:  # it brings its groups along
        bases = [environment]
    return [f"*{GROUPS[base]}*" if base in GROUPS else f"`{env_ids[base]}`" for base in bases]


def tables() -> str:
    """A table for each group, then one for each environment with the groups that it takes."""
    lines: list[str] = []
    for group, heading in GROUPS.items():
        lines += [f"#### Options: {heading}", "", (group.__doc__ or "").splitlines()[0], "", *table(group), ""]
    env_ids = {options: env_id for env_id, options in environments().items() if options not in GROUPS}
    for env_id, options in environments().items():
        taken = shared(options, env_ids) + ([f"*{GROUPS[options]}*"] if options in GROUPS else [])
        lines += [f"#### `{env_id}`", ""]
        if taken:
            lines += [f"Takes the options of {', '.join(taken)}.", ""]
        if options not in GROUPS:
            lines += [*table(options), ""]
    return "\n".join(lines).strip()


def main() -> None:
    script = Path(__file__).name
    write_or_check({PAGE: with_part(PAGE, script, tables())}, script)


if __name__ == "__main__":
    main()
