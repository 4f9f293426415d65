# SPDX-License-Identifier: BSD-2-Clause
"""Examples for the OpenAPI document: those that the models give, and what can be made of their schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from gateway.api.strict_json import dump

_MAX_DEPTH: Final = 12
"""Steps into a schema; one that holds itself is cut there."""


_FORMATS: Final[Mapping[str, str]] = {
    "uuid": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "date-time": "2026-01-31T09:30:00Z",
    "date": "2026-01-31",
    "uri": "https://example.com/",
    "email": "someone@example.com",
}
_SIMPLE: Final[Mapping[str, Any]] = {"string": "string", "boolean": True, "object": {}, "null": None}


def example_of(
    schema: Mapping[str, Any], defs: Mapping[str, Any], reads: type[BaseModel] | None = None
) -> Any:
    """An example of a schema; None where none can be made that the model `reads` takes.

    A model's own example comes first, then a field's, then its default, then a value of its type. Optional
    fields without any of these are left out.
    """
    example = _make(schema, defs, 0)
    if reads is None:
        return example
    try:
        reads.model_validate_json(dump(example), strict=True)
    except (ValidationError, ValueError):
        return None
    return example


def _make(schema: Mapping[str, Any], defs: Mapping[str, Any], depth: int) -> Any:
    inner = _instead(schema, defs)
    if inner is not None:
        return _make(inner, defs, depth + 1)
    given = _given(schema)
    return given[0] if given else _of_type(schema, defs, depth)


def _instead(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema that stands for this one: what it refers to, or its first choice."""
    if "$ref" in schema:
        target: Mapping[str, Any] = defs[schema["$ref"].rpartition("/")[2]]
        return target
    if _given(schema):
        return None
    choices = [choice for several in ("anyOf", "oneOf", "allOf") for choice in schema.get(several, [])]
    return choices[0] if choices else None


def _of_type(schema: Mapping[str, Any], defs: Mapping[str, Any], depth: int) -> Any:
    match schema.get("type"):
        case "object" if "properties" in schema and depth < _MAX_DEPTH:
            return _object(schema, defs, depth)
        case "array":
            items = schema.get("items", {})
            return [_make(items, defs, depth + 1)] if items and depth < _MAX_DEPTH else []
        case "integer" | "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        case "string":
            return _FORMATS.get(schema.get("format", ""), "string")
    return _SIMPLE.get(str(schema.get("type")))


def _given(schema: Mapping[str, Any]) -> list[Any]:
    """What the schema itself says: an example, a constant, a choice, a default."""
    if "const" in schema:
        return [schema["const"]]
    found = [*schema.get("examples", []), *schema.get("enum", [])]
    if not found and schema.get("default") is not None:
        found = [schema["default"]]
    return found


def _object(schema: Mapping[str, Any], defs: Mapping[str, Any], depth: int) -> dict[str, Any]:
    required = schema.get("required", [])
    return {
        name: _make(inner, defs, depth + 1)
        for name, inner in schema["properties"].items()
        if name in required or "examples" in inner
    }
