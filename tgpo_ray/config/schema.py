"""The JSON schema of the YAML file, for editors."""

from __future__ import annotations

from typing import Any

from tgpo_ray.config.loading import NOTES
from tgpo_ray.config.registry import known_algorithms, resolve_algorithm
from tgpo_ray.config.run_config import RunConfig
from tgpo_ray.config.sugar import SHORTHAND

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(algorithm: str | None = None) -> dict[str, Any]:
    """Returns the schema of one algorithm's file, or of any, in which `algorithm` decides about the other keys."""
    if algorithm is not None:
        return {"$schema": DIALECT, **class_schema(resolve_algorithm(algorithm))}
    definitions: dict[str, Any] = {}
    branches = []
    for name in sorted(known_algorithms()):
        schema = class_schema(resolve_algorithm(name))
        definitions |= schema.pop("$defs", {})
        definitions[name] = schema
        condition = {"properties": {"algorithm": {"const": name}}, "required": ["algorithm"]}
        branches.append({"if": condition, "then": {"$ref": f"#/$defs/{name}"}})
    # An import path, which has a colon, may have any keys.
    algorithms = {"anyOf": [{"enum": sorted(known_algorithms())}, {"type": "string", "pattern": ":"}]}
    return {
        "$schema": DIALECT,
        "title": "tgpo_ray run",
        "type": "object",
        "properties": {"algorithm": algorithms},
        "required": ["algorithm"],
        "allOf": branches,
        "$defs": definitions,
    }


def class_schema(model: type[RunConfig]) -> dict[str, Any]:
    """Returns the schema of one config class, the shorthand `teacher` and `env` included."""
    schema = model.model_json_schema()
    inner = {"teacher": "TeacherConfig", "env": "EnvConfig"}
    for short, (section, _) in SHORTHAND.items():
        if section in model.model_fields:
            text = f"Short for `{section}` with one entry."
            schema["properties"][short] = {"$ref": f"#/$defs/{inner[short]}", "description": text}
    _allow_file_of_sets(schema)
    schema["required"] = ["algorithm"]
    schema["patternProperties"] = {f"^{NOTES}": {"description": "Not read: a place for what anchors name."}}
    return schema


def _allow_file_of_sets(schema: dict[str, Any]) -> None:
    """`evaluation.envs` is a list, or names the file that has it."""
    keys = schema["$defs"]["EvaluationConfig"]["properties"]
    description = keys["envs"].pop("description")
    names = {"type": "array", "items": {"type": "string"}}
    file = {"type": "object", "properties": {"from": {"type": "string"}, "sets": names}}
    file |= {"required": ["from"], "additionalProperties": False}
    keys["envs"] = {"anyOf": [keys["envs"], file], "description": description}
