# SPDX-License-Identifier: BSD-2-Clause
"""The session resource in the OpenAPI document."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.api.framework.openapi import openapi_document
from gateway.api.sessions.session_models import NewSession, Report, Session, SessionPage
from gateway.api.sessions.sessions import SESSIONS


@pytest.fixture(scope="module")
def paths() -> Any:
    return openapi_document(SESSIONS, url="/", version="1")["paths"]


def example(content: Any) -> Any:
    return content["content"]["application/json"]["example"]


def test_every_example_is_one(paths: Any) -> None:
    create = paths["/v1/sessions"]["post"]
    wanted = NewSession.model_validate(example(create["requestBody"]), strict=True)
    assert wanted.transport.type == "websocket"
    complete = paths["/v1/sessions/{session_id}/complete"]["post"]
    report = example(complete["requestBody"])
    assert Report.model_validate(report).results == {"resolved": True}
    for answered in (
        create["responses"]["201"],
        complete["responses"]["200"],
        paths["/v1/sessions/{session_id}"]["get"]["responses"]["200"],
        paths["/v1/sessions/{session_id}/stop"]["post"]["responses"]["200"],
    ):
        shown = Session.model_validate(example(answered))
        assert shown.model_dump(mode="json") == example(answered)
    page = example(paths["/v1/sessions"]["get"]["responses"]["200"])
    assert SessionPage.model_validate(page).data[0].id


@pytest.mark.parametrize(
    ("report", "is_taken"),
    [
        ({}, False),
        ({"results": None}, False),
        ({"transcript": None, "duration_seconds": None}, False),
        ({"results": False}, True),
        ({"duration_seconds": 0}, True),
    ],
)
def test_the_schemas_accept_what_the_api_accepts(report: Any, is_taken: bool) -> None:
    document = openapi_document(SESSIONS, url="/", version="1")
    body = document["paths"]["/v1/sessions/{session_id}/complete"]["post"]["requestBody"]
    assert body["required"]
    schema = document["components"]["schemas"]["Report"]
    named = [choice["required"][0] for choice in schema["anyOf"]]
    assert any(report.get(name) is not None for name in named) is is_taken
    assert all(
        choice["properties"] == {choice["required"][0]: {"not": {"type": "null"}}}
        for choice in schema["anyOf"]
    )
    try:
        Report.model_validate(report)
    except ValidationError:
        assert not is_taken
    else:
        assert is_taken


def test_every_operation_needs_a_private_key(paths: Any) -> None:
    for operations in paths.values():
        for operation in operations.values():
            assert operation["security"] == [{"privateKey": []}]
            assert {"401", "403", "429", "500", "503"} <= operation["responses"].keys()
