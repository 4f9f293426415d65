# SPDX-License-Identifier: BSD-2-Clause
"""The OpenAPI 3.1 document of the API, made from the route table and the pydantic models.

Nothing is written twice: paths, keys and limits are the operations', bodies the models', refusals those that
the kernel gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from gateway.api.framework.errors import example_refusal, kernel_refusals, render, schema_of
from gateway.api.framework.idempotency import HEADER, MAX_KEY_CHARACTERS
from gateway.api.framework.operation import Access, Operation
from gateway.api.framework.strict_json import dump
from gateway.model.reasons import status_phrase

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


Json = dict[str, Any]
Mode = Literal["validation", "serialization"]

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
        "format": "uuid",
        "examples": ["7c9e6679-7425-40de-944b-e07fc1f90ae7"],
    },
}
"""Parameters of paths that are more than any text, by name."""

_HEADER_SCHEMAS: Final[Mapping[str, Json]] = {
    HEADER: {"type": "string", "pattern": f"^[!-~]([ -~]{{0,{MAX_KEY_CHARACTERS - 2}}}[!-~])?$"},
}
"""Headers that are more than any text: a key is printable ASCII, with no space at either end."""

_RETRY_STATUSES: Final = (429, 503)
_FIRST_ERROR: Final = 400
_WITH_BODY: Final = ("POST", "PUT", "PATCH")


def openapi_document(operations: Iterable[Operation], *, url: str, version: str) -> Json:
    """The document. `url`: where the API is, as in "https://voice.example.com"; "/" is where it was read."""
    table = [operation for operation in operations if operation.in_schema]
    schemas = _Schemas(table)
    paths: Json = {}
    for operation in table:
        item = paths.setdefault(_plain(operation.path), {})
        item[operation.method.lower()] = _operation(operation, schemas)
    tags = [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in table)]
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
    """The JSON Schemas of every model, by the model and whether it is read or written."""

    def __init__(self, table: Iterable[Operation]) -> None:
        wanted: dict[tuple[type[BaseModel], Mode], None] = {}
        self._queries: dict[type[BaseModel], None] = {}
        for operation in table:
            if operation.body:
                wanted[operation.body, "validation"] = None
            if operation.query:
                wanted[operation.query, "validation"] = None
                self._queries[operation.query] = None
            for model in _answers(operation).values():
                if model:
                    wanted[model, "serialization"] = None
        self._refs, found = models_json_schema(list(wanted), ref_template=f"{SCHEMAS}{{model}}")
        self._defs: Json = found.get("$defs", {})

    def ref(self, model: type[BaseModel], mode: Mode) -> Json:
        """`{"$ref": …}` of the model."""
        return self._refs[model, mode]

    def resolved(self, model: type[BaseModel], mode: Mode) -> Json:
        """The model's schema itself."""
        schema: Json = self._defs[self.ref(model, mode)["$ref"].removeprefix(SCHEMAS)]
        return schema

    def example(self, model: type[BaseModel], mode: Mode) -> Json:
        """`{"example": …}`, or nothing where none can be made that the model takes."""
        reads = model if mode == "validation" else None
        example = example_of(self.ref(model, mode), self._defs, reads)
        return {} if example is None else {"example": example}

    def components(self) -> Json:
        """All that something refers to; queries are written out as parameters."""
        queries = {self.ref(model, "validation")["$ref"].removeprefix(SCHEMAS) for model in self._queries}
        return {name: schema for name, schema in sorted(self._defs.items()) if name not in queries}


def _operation(operation: Operation, schemas: _Schemas) -> Json:
    found: Json = {
        "operationId": _operation_id(operation),
        "tags": [operation.tag],
        "summary": operation.summary,
        "security": _KEYS[operation.access],
    }
    if operation.description:
        found["description"] = operation.description
    parameters = [*_path_parameters(operation), *_query_parameters(operation, schemas), *_headers(operation)]
    if parameters:
        found["parameters"] = parameters
    if operation.body:
        content = {
            "schema": schemas.ref(operation.body, "validation"),
            **schemas.example(operation.body, "validation"),
        }
        found["requestBody"] = {
            "required": _needs_body(operation.body),
            "content": {"application/json": content},
        }
    elif operation.method in _WITH_BODY and (operation.reads_raw or operation.any_answer):
        found["requestBody"] = {"required": False, "content": {"*/*": {}}}
    found["responses"] = dict(_responses(operation, schemas))
    return found


def _needs_body(model: type[BaseModel]) -> bool:
    """Whether no body, which counts as `{}`, is refused."""
    try:
        model.model_validate({})
    except ValidationError:
        return True
    return False


def _answers(operation: Operation) -> dict[int, type[BaseModel] | None]:
    """Every documented answer, the kernel's refusals included, by status."""
    style = operation.style
    found: dict[int, type[BaseModel] | None] = {
        refusal.status: schema_of(refusal.status, style) for refusal in kernel_refusals(operation)
    }
    for status, model in operation.answers.items():
        found[status] = model or (schema_of(status, style) if status >= _FIRST_ERROR else None)
    return dict(sorted(found.items()))


def _responses(operation: Operation, schemas: _Schemas) -> Iterator[tuple[str, Json]]:
    refusals = {refusal.status: refusal for refusal in kernel_refusals(operation)}
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
                refusal = refusals.get(status) or example_refusal(status, operation.style)
                body = render(refusal, operation.style, REQUEST_ID_EXAMPLE).body
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
    for name, given in schema.get("properties", {}).items():
        inner = json.loads(json.dumps(given))
        parameter: Json = {"name": name, "in": "query", "required": name in schema.get("required", [])}
        if description := inner.pop("description", None):
            parameter["description"] = description
        inner.pop("title", None)
        # A query has no null: a parameter is there or it is not.
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
    """A path without Starlette's converters."""
    return re.sub(r":\w+\}", "}", path)


def _operation_id(operation: Operation) -> str:
    detail = re.sub(r"\W+", "_", _plain(operation.path)).strip("_")
    return f"{operation.method.lower()}_{detail}"
