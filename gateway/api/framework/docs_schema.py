# SPDX-License-Identifier: BSD-2-Clause
"""JSON Schemas as HTML, for the page /docs: what fields there are, of what type, within what bounds."""

from __future__ import annotations

import json
from html import escape
from typing import Any, Final

Json = dict[str, Any]

_MAX_DEPTH: Final = 6

_BOUNDS: Final = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "like {}",
    "default": "by default {}",
}


def code(value: object) -> str:
    """A value as JSON to read."""
    return f"<pre tabindex='0'><code>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</code></pre>"


def paragraphs(text: str) -> str:
    """Paragraphs, parted by empty lines, as HTML."""
    return "".join(f"<p>{inline(part)}</p>" for part in text.split("\n\n") if part)


def inline(text: str) -> str:
    """Text in which `backticks` are code, as in the models' descriptions; as HTML."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if odd % 2 else piece for odd, piece in enumerate(pieces))


def schema_fields(schema: Json, document: Json, depth: int = 0) -> str:
    """The fields of an object, those of objects inside it below them; empty for what has none."""
    found, _ = _object_of(schema, document)
    properties = found.get("properties", {})
    if not properties or depth > _MAX_DEPTH:
        return "" if depth else f"<p>{type_words(schema, document)}</p>"
    required = found.get("required", [])
    rows = "".join(
        f"<li><code>{escape(name)}</code> <span class='type'>{type_words(inner, document)}</span>"
        f"{' <em>required</em>' if name in required else ''}"
        f"{_about(inner)}{schema_fields(inner, document, depth + 1)}</li>"
        for name, inner in properties.items()
    )
    return f"<ul class='fields'>{rows}</ul>"


def _about(schema: Json) -> str:
    text = inline(schema.get("description", ""))
    return f"<div>{text}</div>" if text else ""


def _resolved(schema: Json, document: Json) -> Json:
    while "$ref" in schema:
        found: Json = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        schema = found
    return schema


def _object_of(schema: Json, document: Json) -> tuple[Json, bool]:
    """The object that a schema is, or is a list or a choice of; and whether it is a list."""
    resolved = _resolved(schema, document)
    if resolved.get("type") == "array":
        return _object_of(resolved.get("items", {}), document)[0], True
    choices = [_object_of(choice, document) for choice in _choices(resolved)]
    return next(((found, listed) for found, listed in choices if "properties" in found), (resolved, False))


def _choices(schema: Json) -> list[Json]:
    return [choice for several in ("anyOf", "oneOf", "allOf") for choice in schema.get(several, [])]


def type_words(schema: Json, document: Json) -> str:
    """A schema's type and bounds in words, as HTML."""
    resolved = _resolved(schema, document)
    bounds = [
        words.format(f"<code>{escape(json.dumps(bound, ensure_ascii=False))}</code>")
        for name, words in _BOUNDS.items()
        if (bound := schema.get(name, resolved.get(name))) is not None
    ]
    return ", ".join([_type(resolved, document), *bounds])


def _type(schema: Json, document: Json) -> str:
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(choice))}</code>" for choice in schema["enum"])
    if choices := _choices(schema):
        return " or ".join(dict.fromkeys(type_words(choice, document) for choice in choices))
    if schema.get("type") == "array":
        return f"list of {type_words(schema.get('items', {}), document)}"
    kind = str(schema.get("type", "any JSON"))
    return f"{kind} ({escape(schema['format'])})" if "format" in schema else kind
