# SPDX-License-Identifier: BSD-2-Clause
"""The OpenAPI document matches the API: every operation, every answer, examples that are accepted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.api.framework.openapi import openapi_document
from gateway.api.framework.operation import Operation

METHODS = {"get", "head", "post", "put", "patch", "delete", "options"}


@pytest.fixture
def document(operations: list[Operation]) -> dict[str, Any]:
    return openapi_document(operations, url="https://voice.example.com", version="1.2.3")


def rows(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def walk(value: Any) -> Iterator[Any]:
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


def operation(document: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][path][method]
    return found


def test_it_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert document["info"]["version"] == "1.2.3"
    assert document["servers"] == [{"url": "https://voice.example.com"}]
    assert [tag["name"] for tag in document["tags"]] == ["Things", "Toys", "Start", "Session API", "Webhooks"]


def test_every_reference_resolves_and_every_schema_is_used(document: dict[str, Any]) -> None:
    used = {node["$ref"] for node in walk(document) if isinstance(node, dict) and "$ref" in node}
    for ref in used:
        target = document
        for step in ref.removeprefix("#/").split("/"):
            target = target[step]
    named = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "headers")
        for name in document["components"][kind]
    }
    assert named == used
    keys = {name for _, _, row in rows(document) for choice in row["security"] for name in choice}
    assert keys == set(document["components"]["securitySchemes"])


def test_every_operation_is_there_once(document: dict[str, Any], operations: list[Operation]) -> None:
    shown = [(method.upper(), path) for method, path, _ in rows(document)]
    table = [(row.method, row.path.replace(":path}", "}")) for row in operations if row.in_schema]
    assert sorted(shown) == sorted(table)
    assert all(method in METHODS for method, _, _ in rows(document))
    ids = [row["operationId"] for _, _, row in rows(document)]
    assert len(ids) == len(set(ids))
    assert "post_v1_public_agent_start" in ids


def test_every_parameter_of_a_path_is_described(document: dict[str, Any]) -> None:
    for _, path, row in rows(document):
        in_path = [given["name"] for given in row.get("parameters", []) if given["in"] == "path"]
        assert in_path == re.findall(r"\{(\w+)\}", path)
        assert all(given["required"] for given in row.get("parameters", []) if given["in"] == "path")


def test_security_schemes_follow_the_access(document: dict[str, Any]) -> None:
    assert operation(document, "post", "/v1/hooks/{org}")["security"] == []
    assert operation(document, "get", "/v1/toys")["security"] == [{"privateKey": []}]
    start = operation(document, "post", "/v1/public/{agent}/start")
    assert start["security"] == [{"publicKey": []}, {"privateKey": []}]


def test_queries_are_parameters(document: dict[str, Any]) -> None:
    assert operation(document, "get", "/v1/toys")["parameters"] == [
        {
            "name": "limit",
            "in": "query",
            "required": False,
            "description": "How many at most.",
            "schema": {"type": "integer", "default": 10, "minimum": 1, "maximum": 100},
        },
        {
            "name": "tag",
            "in": "query",
            "required": False,
            "description": "Only those with `tag`.",
            "schema": {"type": "array", "items": {"type": "string"}, "default": []},
        },
        {"name": "region", "in": "query", "required": False, "schema": {"type": "string"}},
    ]
    assert "Page" not in document["components"]["schemas"]


def test_bodies_have_schemas_and_examples(document: dict[str, Any]) -> None:
    body = operation(document, "post", "/v1/things")["requestBody"]
    assert body["required"] is True
    assert body["content"]["application/json"] == {
        "schema": {"$ref": "#/components/schemas/Thing"},
        "example": {"agent": "support"},
    }
    body = operation(document, "post", "/v1/public/{agent}/start")["requestBody"]
    assert body["required"] is False
    assert body["content"]["application/json"]["example"] == {"body": {"name": "Ada"}}
    thing = document["components"]["schemas"]["Thing"]
    assert thing["required"] == ["agent"]
    assert thing["properties"]["transport"]["anyOf"][0] == {"$ref": "#/components/schemas/Transport"}


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("get", "/v1/toys", ["200", "400", "401", "429", "500", "503"]),
        ("get", "/v1/toys/{thing_id}", ["200", "204", "401", "404", "429", "500", "502", "503"]),
        (
            "post",
            "/v1/public/{agent}/start",
            ["200", "400", "401", "404", "408", "413", "429", "500", "503"],
        ),
        (
            "post",
            "/v1/things",
            ["201", "400", "401", "403", "408", "413", "422", "429", "500", "503"],
        ),
        ("get", "/v1/things/{thing_id}", ["200", "401", "403", "404", "409", "429", "500", "503"]),
        ("post", "/v1/hooks/{org}", ["200", "404", "408", "413", "500", "503"]),
        (
            "post",
            "/v1/public/{agent}/sessions/{session_id}/{rest}",
            ["401", "404", "429", "500", "503", "default"],
        ),
    ],
)
def test_every_answer_is_documented(
    document: dict[str, Any], method: str, path: str, statuses: list[str]
) -> None:
    assert list(operation(document, method, path)["responses"]) == statuses


async def test_errors_are_documented_literally(api: Any, document: dict[str, Any]) -> None:
    """What is shown is what comes."""

    def shown(method: str, path: str, status: str) -> Any:
        answer = operation(document, method, path)["responses"][status]
        return answer["content"]["application/json"]["example"]

    request_id = shown("post", "/v1/things", "401")["error"]["request_id"]
    headers = {"X-Request-Id": request_id}
    start, things = "/v1/public/{agent}/start", "/v1/things"
    came = {
        ("post", start, "401"): await api("POST", "/v1/public/a/start", key=None),
        ("post", start, "413"): await api("POST", "/v1/public/a/start", body=b" " * 10_001),
        ("get", "/v1/toys", "401"): await api("GET", "/v1/toys", key=None),
        ("get", "/v1/toys/{thing_id}", "500"): await api("GET", "/v1/toys/bug"),
        ("get", "/v1/toys/{thing_id}", "503"): await api("GET", "/v1/toys/store"),
        ("post", things, "401"): await api("POST", things, key=None, headers=headers),
        ("post", things, "403"): await api("POST", things, key="pk_acme", headers=headers),
        ("post", things, "422"): await api(
            "POST", f"{things}?limit=0", value={"agent": "a"}, headers=headers
        ),
        ("get", "/v1/things/{thing_id}", "500"): await api("GET", "/v1/things/bug", headers=headers),
        ("get", "/v1/things/{thing_id}", "503"): await api("GET", "/v1/things/store", headers=headers),
    }
    for row, reply in came.items():
        assert str(reply.status) == row[2]
        assert reply.json == shown(*row)


async def test_the_document_is_served(api: Any, document: dict[str, Any]) -> None:
    reply = await api("GET", "/openapi.json", key=None)
    assert reply.status == 200
    served = reply.json
    served["info"]["version"] = "1.2.3"
    assert served == document
