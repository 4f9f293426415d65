# SPDX-License-Identifier: BSD-2-Clause
"""Middleware for every answer: its request id, its headers, its log line; HEAD, OPTIONS and forwarding."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
import structlog
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

WAIT_S = 60.0
OURS = re.compile(r"[0-9a-f]{32}")


# Request ids


@pytest.mark.parametrize("given", ["a", "Call-7_b.c", "x" * 128])
async def test_a_valid_request_id_is_returned(api: Any, given: str) -> None:
    reply = await api("GET", "/v1/things/special", headers={"X-Request-Id": given})
    assert reply.header("X-Request-Id") == given
    assert reply.json["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a/b", "é", "<script>", "a\tb", '"'])
async def test_an_invalid_request_id_is_replaced(api: Any, given: str) -> None:
    reply = await api("GET", "/v1/things/special", headers={"X-Request-Id": given})
    assert OURS.fullmatch(reply.header("X-Request-Id"))
    assert reply.json["request_id"] == reply.header("X-Request-Id")


async def test_two_request_ids_are_replaced(api: Any) -> None:
    headers = {"X-Request-Id": "one", "x-request-id": "two"}
    reply = await api("GET", "/v1/things/special", headers=headers)
    assert OURS.fullmatch(reply.header("X-Request-Id"))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("GET", "/nothing", 404),
        ("POST", "/livez", 405),
        ("GET", "/broken", 500),
        ("GET", "/docs", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/v1/nothing", 404),
        ("OPTIONS", "/v1/toys", 204),
        ("PUT", "/v1/toys", 405),
        ("GET", "/v1/toys", 200),
        ("GET", "/v1/toys/nothing", 204),
        ("HEAD", "/v1/toys", 200),
        ("GET", "/v1/split", 200),
    ],
)
async def test_every_answer_has_a_request_id(api: Any, method: str, path: str, status: int) -> None:
    reply = await api(method, path, headers={"X-Request-Id": "call-1"})
    assert (reply.status, reply.header("X-Request-Id")) == (status, "call-1")


# Log lines


async def test_each_request_is_one_log_line_without_secrets(api: Any) -> None:
    with capture_logs(processors=[merge_contextvars]) as lines:
        await api("GET", "/v1/toys?limit=3", headers={"X-Request-Id": "call-1"})
    (line,) = lines
    assert line.pop("seconds") >= 0
    assert line == {
        "event": "request",
        "log_level": "info",
        "request_id": "call-1",
        "method": "GET",
        "route": "/v1/toys",
        "status": 200,
        "organization": "acme",
        "key": "configured-private-0",
    }


async def test_errors_are_logged_too(api: Any) -> None:
    with capture_logs() as lines:
        await api("GET", "/v1/toys", key="sk_nobody")
        await api("GET", "/v1/elsewhere", key=None)
        await api("PUT", "/v1/toys", key=None)
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/v1/toys", 401),
        ("unknown", 404),
        ("/v1/toys", 405),
    ]
    assert "sk_nobody" not in repr(lines)
    assert all(line["seconds"] >= 0 for line in lines)


async def test_an_internal_error_is_logged_with_its_id_and_stack(api: Any) -> None:
    with capture_logs(processors=[merge_contextvars]) as lines:
        await api("GET", "/v1/toys/bug", headers={"X-Request-Id": "call-1"})
    (error,) = (line for line in lines if line["log_level"] == "error")
    assert error["request_id"] == "call-1"
    assert error["exc_info"]
    assert error["key"] == "configured-private-0"


async def test_an_answer_that_fails_halfway_closes_the_connection(api: Any) -> None:
    """Who reads it sees that it is not whole: the last chunk (RFC 9112 §7.1) does not come."""
    reader, writer = await api.connect()
    with capture_logs() as lines:
        writer.write(b"GET /half HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            answer = await reader.read()
    assert answer.endswith(b"4\r\nhalf\r\n")
    assert [line["log_level"] for line in lines] == ["error"]


async def test_no_log_field_outlives_its_request(api: Any) -> None:
    await api("GET", "/v1/toys")
    assert structlog.contextvars.get_contextvars() == {}


# Headers


async def test_a_header_cannot_break_out_of_its_line(api: Any) -> None:
    with capture_logs() as lines:
        reply = await api("GET", "/v1/split", key=None, headers={"X-Request-Id": "ours"})
    assert reply.status == 200
    assert reply.header("X-Bad") is None
    assert reply.header("Set-Cookie") is None
    assert reply.header("X-Good") == "1"
    assert reply.header("X-Request-Id") == "ours"
    assert "error" in [line["log_level"] for line in lines]


async def test_oversized_headers_are_refused(api: Any) -> None:
    reply, _, _ = await api.says(b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 200_000 + b"\r\n\r\n")
    assert reply.status in (200, 400)


async def test_answers_are_strict_json(api: Any) -> None:
    reply = await api("POST", "/v1/things", value={"agent": "support"})
    assert (reply.status, reply.header("Location")) == (201, "/v1/things/7")
    assert reply.header("Content-Type") == "application/json"
    assert reply.raw == b'{"id":"7","status":"created","usage":null}'


async def test_an_answer_without_a_body_has_no_media_type(api: Any) -> None:
    reply = await api("GET", "/v1/toys/nothing")
    assert (reply.status, reply.header("Content-Type"), reply.raw) == (204, None, b"")


# Methods and paths


async def test_head_is_get_without_a_body(api: Any) -> None:
    full, head = await api("GET", "/v1/toys"), await api("HEAD", "/v1/toys")
    assert (head.status, head.raw) == (200, b"")
    assert head.header("Content-Length") == full.header("Content-Length")
    assert (await api("HEAD", "/v1/toys", key=None)).status == 401
    assert (await api("HEAD", "/v1/things")).status == 405


async def test_options_lists_the_methods_and_needs_no_key(api: Any) -> None:
    reply = await api("OPTIONS", "/v1/things", key=None)
    assert (reply.status, reply.header("Allow")) == (204, "OPTIONS, POST")


async def test_an_operation_may_serve_options_itself(api: Any) -> None:
    path = "/v1/public/support/sessions/1/api/offer"
    reply = await api("OPTIONS", path)
    assert (reply.status, reply.header("X-Method")) == (200, "OPTIONS")
    assert (await api("OPTIONS", path, key=None)).status == 401


async def test_literal_paths_go_before_parameters_in_any_order(api: Any) -> None:
    assert (await api("GET", "/v1/things/special")).json["special"] is True
    assert (await api("GET", "/v1/things/7")).json["id"] == "7"


async def test_a_forwarded_body_is_read_by_its_handler_only(api: Any) -> None:
    body = b"\xff" * 3_000_000  # more than any limit on what is read
    reply = await api("POST", "/v1/public/support/sessions/1/a/b", body=body)
    assert (reply.status, reply.header("X-Bytes")) == (200, "3000000")
    assert reply.header("X-Path") == "a/b"
