# SPDX-License-Identifier: BSD-2-Clause
"""The OpenAPI 3.1 document of the API, made from the route table and the pydantic models.

Paths, keys and limits come from the operations, bodies from the models, and error bodies from errors.py, so
that nothing is written twice. (https://spec.openapis.org/oas/v3.1.0)
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from gateway.api.framework.errors import example_error, framework_errors, render, schema_of
from gateway.api.framework.idempotency import HEADER, MAX_KEY_CHARACTERS
from gateway.api.framework.operation import Access, Operation
from gateway.model.json_text import dump
from gateway.model.reasons import status_phrase

Json = dict[str, Any]
Mode = Literal["validation", "serialization"]

_MAX_DEPTH: Final = 12
"""Steps into a schema after which its example ends: a schema may contain itself."""

_FORMATS: Final[Mapping[str, str]] = {
    "uuid": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "date-time": "2026-01-31T09:30:00Z",
    "date": "2026-01-31",
    "uri": "https://example.com/",
    "email": "someone@example.com",
}
_SIMPLE: Final[Mapping[str, Any]] = {"string": "string", "boolean": True, "object": {}, "null": None}

SCHEMAS: Final = "#/components/schemas/"
REQUEST_ID_EXAMPLE: Final = "4f9c1c0e7d0b4f3c8a2d5e6f708192a3"

_DESCRIPTION: Final = """\
Starts, lists, reaches and stops sessions of voice agents. The paths under `/v1/public`, `/v1/agents` and
`/v1/organizations` keep Pipecat Cloud's contract; `/v1/sessions` is the session as a resource of its own.

Every answer has an `X-Request-Id`: the request's own, if it brought one of 1 to 128 letters, digits, dots,
underscores and hyphens. A method that a path does not serve is answered 405 with `Allow`.\
"""

_KEYS: Final[Mapping[Access, list[dict[str, list[str]]]]] = {
    Access.NONE: [],
    Access.PUBLIC: [{"publicKey": []}, {"privateKey": []}],
    Access.PRIVATE: [{"privateKey": []}],
}

_SCHEMES: Final[Json] = {
    "publicKey": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "pk_…",
        "description": "A public key of the organisation.",
    },
    "privateKey": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "sk_… or pcc_pat_…",
        "description": "A private key of the organisation, or a personal token.",
    },
}

_HEADERS: Final[Json] = {
    "RequestId": {
        "description": "The request's id, which is also in the gateway's log.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        "example": REQUEST_ID_EXAMPLE,
    },
    "RetryAfter": {
        "description": "Seconds after which trying again makes sense.",
        "schema": {"type": "integer", "minimum": 1},
        "example": 5,
    },
}

_PATH_SCHEMAS: Final[Mapping[str, Json]] = {
    "session_id": {
        "type": "string",
        "anyOf": [{"format": "uuid"}, {"pattern": "^sess_[0-7][0-9A-HJKMNP-TV-Z]{25}$"}],
        "examples": ["7c9e6679-7425-40de-944b-e07fc1f90ae7"],
    },
}
"""Schemas of path parameters that are more specific than a string, by name."""

_HEADER_SCHEMAS: Final[Mapping[str, Json]] = {
    HEADER: {"type": "string", "pattern": f"^[!-~]([ -~]{{0,{MAX_KEY_CHARACTERS - 2}}}[!-~])?$"},
}
"""Schemas of request headers, by name: a key is printable ASCII without a space at either end."""

_RETRY_STATUSES: Final = (429, 503)
_FIRST_ERROR: Final = 400
_WITH_BODY: Final = ("POST", "PUT", "PATCH")


def openapi_document(operations: Iterable[Operation], *, url: str, version: str) -> Json:
    """Return the OpenAPI document.

    `url`: the base of the API, as in "https://voice.example.com"; "/" means the document's own origin.
    """
    documented = [operation for operation in operations if operation.in_schema]
    schemas = _Schemas(documented)
    paths: Json = {}
    for operation in documented:
        item = paths.setdefault(_plain(operation.path), {})
        item[operation.method.lower()] = _operation(operation, schemas)
    tags = [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in documented)]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Patchbay",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "BSD-2-Clause", "identifier": "BSD-2-Clause"},
        },
        "servers": [{"url": url}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.components(),
            "securitySchemes": _SCHEMES,
            "headers": _HEADERS,
        },
    }


class _Schemas:
    """The JSON Schemas of all models, by model and by mode (read or written)."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        models: dict[tuple[type[BaseModel], Mode], None] = {}
        self._queries: dict[type[BaseModel], None] = {}
        for operation in operations:
            if operation.body:
                models[operation.body, "validation"] = None
            if operation.query:
                models[operation.query, "validation"] = None
                self._queries[operation.query] = None
            for model in _answers(operation).values():
                if model:
                    models[model, "serialization"] = None
        self._refs, schemas = models_json_schema(list(models), ref_template=f"{SCHEMAS}{{model}}")
        self._defs: Json = schemas.get("$defs", {})

    def ref(self, model: type[BaseModel], mode: Mode) -> Json:
        """Return `{"$ref": …}` of the model."""
        return self._refs[model, mode]

    def resolved(self, model: type[BaseModel], mode: Mode) -> Json:
        """Return the model's schema."""
        schema: Json = self._defs[self.ref(model, mode)["$ref"].removeprefix(SCHEMAS)]
        return schema

    def example(self, model: type[BaseModel], mode: Mode) -> Json:
        """Return `{"example": …}`, or `{}` if the model refuses every example that can be made."""
        reads = model if mode == "validation" else None
        example = example_of(self.ref(model, mode), self._defs, reads)
        return {} if example is None else {"example": example}

    def components(self) -> Json:
        """Return the schemas that are referred to. Those of queries become parameters instead."""
        queries = {self.ref(model, "validation")["$ref"].removeprefix(SCHEMAS) for model in self._queries}
        return {name: schema for name, schema in sorted(self._defs.items()) if name not in queries}


def _operation(operation: Operation, schemas: _Schemas) -> Json:
    entry: Json = {
        "operationId": _operation_id(operation),
        "tags": [operation.tag],
        "summary": operation.summary,
        "security": _KEYS[operation.access],
    }
    if operation.description:
        entry["description"] = operation.description
    parameters = [*_path_parameters(operation), *_query_parameters(operation, schemas), *_headers(operation)]
    if parameters:
        entry["parameters"] = parameters
    if operation.body:
        content = {
            "schema": schemas.ref(operation.body, "validation"),
            **schemas.example(operation.body, "validation"),
        }
        entry["requestBody"] = {
            "required": _needs_body(operation.body),
            "content": {"application/json": content},
        }
    elif operation.method in _WITH_BODY and (operation.reads_raw or operation.any_answer):
        entry["requestBody"] = {"required": False, "content": {"*/*": {}}}
    entry["responses"] = dict(_responses(operation, schemas))
    return entry


def _needs_body(model: type[BaseModel]) -> bool:
    """Return True if the model refuses an empty body, which counts as `{}`."""
    try:
        model.model_validate({})
    except ValidationError:
        return True
    return False


def _answers(operation: Operation) -> dict[int, type[BaseModel] | None]:
    """Return the models of all documented answers by status, those of the framework's errors included."""
    style = operation.style
    answers: dict[int, type[BaseModel] | None] = {
        error.status: schema_of(error.status, style) for error in framework_errors(operation)
    }
    for status, model in operation.answers.items():
        answers[status] = model or (schema_of(status, style) if status >= _FIRST_ERROR else None)
    return dict(sorted(answers.items()))


def _responses(operation: Operation, schemas: _Schemas) -> Iterator[tuple[str, Json]]:
    errors = {error.status: error for error in framework_errors(operation)}
    for status, model in _answers(operation).items():
        answer: Json = {
            "description": status_phrase(status),
            "headers": {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}},
        }
        if status in _RETRY_STATUSES:
            answer["headers"]["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
        if model:
            content: Json = {"schema": schemas.ref(model, "serialization")}
            if model is schema_of(status, operation.style):
                error = errors.get(status) or example_error(status, operation.style)
                body = render(error, operation.style, REQUEST_ID_EXAMPLE).body
                content["example"] = body.model_dump(mode="json")
            else:
                content |= schemas.example(model, "serialization")
            answer["content"] = {"application/json": content}
        yield str(status), answer
    if operation.any_answer:
        yield "default", {"description": "Whatever the agent answers", "content": {"*/*": {}}}


def _path_parameters(operation: Operation) -> Iterator[Json]:
    for name in re.findall(r"\{(\w+)", operation.path):
        schema = _PATH_SCHEMAS.get(name, {"type": "string"})
        parameter = {"name": name, "in": "path", "required": True, "schema": schema}
        if name in operation.path_notes:
            parameter["description"] = operation.path_notes[name]
        yield parameter


def _query_parameters(operation: Operation, schemas: _Schemas) -> Iterator[Json]:
    if operation.query is None:
        return
    schema = schemas.resolved(operation.query, "validation")
    for name, field in schema.get("properties", {}).items():
        inner = copy.deepcopy(field)
        parameter: Json = {"name": name, "in": "query", "required": name in schema.get("required", [])}
        if description := inner.pop("description", None):
            parameter["description"] = description
        inner.pop("title", None)
        # A query has no null: a parameter is given or absent.
        choices = [choice for choice in inner.get("anyOf", []) if choice != {"type": "null"}]
        if choices:
            del inner["anyOf"]
            inner |= choices[0] if len(choices) == 1 else {"anyOf": choices}
        if "default" in inner and inner["default"] is None:
            del inner["default"]
        yield parameter | {"schema": inner}


def _headers(operation: Operation) -> Iterator[Json]:
    for name, detail in operation.request_headers.items():
        yield {
            "name": name,
            "in": "header",
            "required": False,
            "description": detail,
            "schema": _HEADER_SCHEMAS.get(name, {"type": "string"}),
        }


def _plain(path: str) -> str:
    """Return the path without Starlette's converters."""
    return re.sub(r":\w+\}", "}", path)


def _operation_id(operation: Operation) -> str:
    name = re.sub(r"\W+", "_", _plain(operation.path)).strip("_")
    return f"{operation.method.lower()}_{name}"


def example_of(
    schema: Mapping[str, Any], defs: Mapping[str, Any], reads: type[BaseModel] | None = None
) -> Any:
    """Return an example of a schema; None if the model `reads` refuses it.

    A model's own example comes first, then a field's, then its default, then a value of its type. Optional
    fields without any of these are omitted.
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
    inner = _resolved(schema, defs)
    if inner is not None:
        return _make(inner, defs, depth + 1)
    values = _declared_values(schema)
    return values[0] if values else _value_of_type(schema, defs, depth)


def _resolved(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema that this one refers to, or its first alternative; None if it is neither."""
    if "$ref" in schema:
        target: Mapping[str, Any] = defs[schema["$ref"].rpartition("/")[2]]
        return target
    if _declared_values(schema):
        return None
    choices = [choice for keyword in ("anyOf", "oneOf", "allOf") for choice in schema.get(keyword, [])]
    return choices[0] if choices else None


def _value_of_type(schema: Mapping[str, Any], defs: Mapping[str, Any], depth: int) -> Any:
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


def _declared_values(schema: Mapping[str, Any]) -> list[Any]:
    """Return the values that the schema names: its constant, its examples and choices, or its default."""
    if "const" in schema:
        return [schema["const"]]
    values = [*schema.get("examples", []), *schema.get("enum", [])]
    if not values and schema.get("default") is not None:
        values = [schema["default"]]
    return values


def _object(schema: Mapping[str, Any], defs: Mapping[str, Any], depth: int) -> dict[str, Any]:
    required = schema.get("required", [])
    return {
        name: _make(inner, defs, depth + 1)
        for name, inner in schema["properties"].items()
        if name in required or "examples" in inner
    }
