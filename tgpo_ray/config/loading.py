"""YAML 1.2 files, and `a.b.c=value` overrides under the same rules.

PyYAML follows YAML 1.1, in which `1e-6` is text, `no` is false, `012` is ten and a repeated key wins in silence.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from tgpo_ray.config.errors import ConfigError

MERGE_KEY, MERGE_TAG = "<<", "tag:yaml.org,2002:merge"
NOTES = "x-"
"""A section of the file whose name begins so is not read: a place for what anchors name."""


class Yaml12Loader(yaml.SafeLoader):
    """PyYAML's safe loader under YAML 1.2's core schema, with merge keys (`<<`). A repeated key is an error."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's own class attribute; the 1.1 resolvers must not be inherited)

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open: list[str | None] = []  # the anchors of what is being read

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent) and anchor in self._open:
            raise _error(f"*{anchor} stands within &{anchor}, so that it would contain itself", event.start_mark)
        self._open.append(anchor)
        node = super().compose_node(parent, index)
        self._open.pop()
        if isinstance(node, yaml.MappingNode) and not isinstance(event, yaml.AliasEvent):
            self._check_keys(node)  # before merge keys put those of other mappings among them
        return node

    def _check_keys(self, node: yaml.MappingNode) -> None:
        marks: dict[Hashable, yaml.Mark] = {}
        for key_node, _ in node.value:
            is_merge = key_node.tag == MERGE_TAG
            key: Any = MERGE_KEY if is_merge else self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _error(f"keys are text, got {key!r}", key_node.start_mark)
            if key in marks:
                fix = "write one, `<<: [*first, *second]`" if is_merge else "delete one"
                raise _error(
                    f"key {key!r} stands twice, first on line {marks[key].line + 1}: {fix}", key_node.start_mark
                )
            marks[key] = key_node.start_mark

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts the merged mappings' keys before the node's own, which win; of two merged mappings the first wins.

        https://yaml.org/type/merge.html. PyYAML 6.0.4 takes the wrong value where a merged mapping merges another.
        """
        own = [(key, value) for key, value in node.value if key.tag != MERGE_TAG]
        if len(own) == len(node.value):
            return
        source = next(value for key, value in node.value if key.tag == MERGE_TAG)
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for mapping in source.value if isinstance(source, yaml.SequenceNode) else [source]:
            if not isinstance(mapping, yaml.MappingNode):
                raise _error("<< takes a mapping or a list of mappings, as `<<: *anchor`", mapping.start_mark)
            self.flatten_mapping(mapping)
            for key, value in mapping.value:
                merged.setdefault(key.value, (key, value))
        names = {key.value for key, _ in own}
        node.value = [pair for name, pair in merged.items() if name not in names] + own

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _error(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def _add_resolver(kind: str, pattern: str, first: str) -> None:
    Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$"), list(first))


_add_resolver("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_add_resolver("null", "~|null|Null|NULL|", "~nN\0")
_add_resolver("int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789")
_add_resolver("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789")
_add_resolver("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.")
_add_resolver("merge", MERGE_KEY, "<")
# An empty scalar has no first character; PyYAML looks it up under "".
Yaml12Loader.yaml_implicit_resolvers[""] = Yaml12Loader.yaml_implicit_resolvers["\0"]
Yaml12Loader.add_constructor("tag:yaml.org,2002:int", Yaml12Loader.construct_int)


def load_yaml(text: str, source: str = "") -> Any:
    """Returns the value of `text` under YAML 1.2; ConfigError with `source:line` where it is not YAML."""
    try:
        return yaml.load(text, Loader=Yaml12Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"{source or 'line'}:{mark.line + 1}" if mark else source
        raise ConfigError([_problem(error)], line) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"not YAML: {error}"], source) from None


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "not YAML"
    context = f" {error.context}" if error.context else ""
    if "'\\t'" in problem:
        return "a tab cannot indent YAML: use spaces"
    return f"{problem}{context}"


def load_file(path: str | Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file, without its `x-` sections; ConfigError that names file, line and fix."""
    try:
        text = _text_at(str(path))
    except FileNotFoundError:
        raise ConfigError([f"no such file (looked in {Path.cwd()})"], str(path)) from None
    except (OSError, ValueError) as error:  # no text, or a URI that pyarrow does not know
        raise ConfigError([f"cannot be read: {error}"], str(path)) from None
    data = load_yaml(text, str(path))
    if not isinstance(data, dict):
        content = "nothing" if data is None else repr(data)
        raise ConfigError([f"expected sections such as `algorithm:` and `model:`, got {content}"], str(path))
    return {name: unshared(value) for name, value in data.items() if not name.startswith(NOTES)}


def _text_at(path: str) -> str:
    """The text of a file, or of one behind a URI: the configuration in a run's folder may be there."""
    if "://" not in path:
        return Path(path).read_text(encoding="utf-8")
    import pyarrow.fs

    filesystem, name = pyarrow.fs.FileSystem.from_uri(path)
    with filesystem.open_input_stream(name) as stream:
        return stream.read().decode("utf-8")


def unshared(value: Any) -> Any:
    """Returns a copy in which no two places share a dict or list, as those of an anchor and its aliases do.

    An override then changes the place that it names and no other.
    """
    if isinstance(value, dict):
        return {key: unshared(item) for key, item in value.items()}
    return [unshared(item) for item in value] if isinstance(value, list) else value


# ---- overrides


def parse_override(override: str) -> tuple[list[str], Any]:
    """Returns the path and the value of `training.lr=1e-4`. The value is YAML, so `null` is None."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals:
        raise ConfigError([f"override {override!r}: expected key=value, as training.lr=1e-4"])
    if not all(parts):
        raise ConfigError([f"override {override!r}: the key has an empty part"])
    try:
        return parts, load_yaml(text)
    except ConfigError as error:
        raise ConfigError([f"override {override!r}: {problem}" for problem in error.problems]) from None


def apply_override(data: dict[str, Any], parts: list[str], value: Any) -> None:
    """Sets one value in `data`. It makes missing sections, a list index must exist, `section=null` deletes one."""
    if value is None and len(parts) == 1:
        data.pop(parts[0], None)
        return
    here: Any = data
    for depth, part in enumerate(parts[:-1]):
        if isinstance(here, dict) and here.get(part) is None:
            here[part] = {}
        here = here[_step(here, parts, depth)]
    here[_step(here, parts, len(parts) - 1)] = value


def _step(here: Any, parts: list[str], depth: int) -> str | int:
    """Returns the key or index in `here` that `parts[depth]` stands for."""
    part, where, whole = parts[depth], ".".join(parts[:depth]), ".".join(parts)
    if isinstance(here, dict):
        return part
    if not isinstance(here, list):
        raise ConfigError([f"override {whole}: {where} is {here!r}, which has no keys"])
    if not part.isdigit() or int(part) >= len(here):
        raise ConfigError([f"override {whole}: {where} is a list of {len(here)}, counted from 0, got {part!r}"])
    return int(part)


# ---- writing


class Yaml12Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, whose text has the same meaning for readers of YAML 1.1 and 1.2."""

    def represent_float_12(self, value: float) -> yaml.ScalarNode:
        text = repr(value).replace("inf", ".inf").replace("nan", ".nan")
        if "e" in text and "." not in text:
            text = text.replace("e", ".0e")  # a 1.1 reader takes 1e-06 for text, and 1.0e-06 for a number
        return self.represent_scalar("tag:yaml.org,2002:float", text)

    def represent_str_12(self, value: str) -> yaml.ScalarNode:
        style = None if isinstance(load_plain(value), str) else "'"
        # Only the double-quoted style has escapes.
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style if value.isprintable() else '"')


Yaml12Dumper.add_representer(float, Yaml12Dumper.represent_float_12)
Yaml12Dumper.add_representer(str, Yaml12Dumper.represent_str_12)


def load_plain(text: str) -> Any:
    """Returns the value of `text` without quotes, or the text itself where it is no YAML."""
    try:
        return load_yaml(text)
    except ConfigError:
        return text


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Returns `data` as YAML, keys in their order."""
    return yaml.dump(dict(data), Dumper=Yaml12Dumper, sort_keys=False, allow_unicode=True, width=120)
