# SPDX-License-Identifier: BSD-2-Clause
"""Request bodies: strict JSON, media types, sizes and time limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

START = "/v1/public/support/start"
MAX_BYTES = 10_000  # of the small API's start

HEAD = b"POST /v1/public/support/start HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer pk_acme\r\n"
ENVELOPE_HEAD = b"POST /v1/things HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk_acme\r\nX-Request-Id: r\r\n"
WAIT_S = 60.0

TOO_LARGE = {
    "error": "The request's body is larger than 10000 bytes",
    "info": "The request's body is larger than 10000 bytes",
    "code": "413",
}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{", "The body is not JSON: Expecting property name enclosed in double quotes at character 1"),
        (b"[1,]", "The body is not JSON: Illegal trailing comma before end of array at character 2"),
        (b'{"body": NaN}', "The body is not JSON: NaN is no JSON number"),
        (b'{"body": -Infinity}', "The body is not JSON: -Infinity is no JSON number"),
        (b'{"body": 1e999}', "The body is not taken: a number is too large"),
        (b'{"body": ' + b"9" * 5000 + b"}", "The body is not taken: a number has too many digits"),
        (b'{"body": 1, "body": 2}', "The body is not taken: an object has the same name twice"),
        (
            b'{"body": [{"a": 1, "\\u0061": 2}]}',
            "The body is not taken: an object has the same name twice",
        ),
        (
            b'{"body":' + b"[" * 64 + b"]" * 64 + b"}",
            "The body is not taken: it is nested deeper than 64 levels",
        ),
        (
            b'{"body":' + b"[" * 4000 + b"]" * 4000 + b"}",
            "The body is not taken: it is nested deeper than 64 levels",
        ),
        (b'{"body": "\xff"}', "The body is not UTF-8: see byte 10"),
        (b'{"body": "\\ud800"}', "The body is not taken: it has half a surrogate pair"),
        (b'{"\\uDFFF": 1}', "The body is not taken: it has half a surrogate pair"),
        (
            b"\xef\xbb\xbf{}",
            "The body is not JSON: Unexpected UTF-8 BOM (decode using utf-8-sig) at character 0",
        ),
        ('{"body": "é"}'.encode("utf-16"), "The body is not UTF-8: see byte 0"),
        (b'{"body": "a\nb"}', "The body is not JSON: Invalid control character at at character 11"),
        (b"\0", "The body is not JSON: Expecting value at character 0"),
        (b"{} {}", "The body is not JSON: Extra data at character 3"),
    ],
)
async def test_what_only_looks_like_json_is_400(api: Any, body: bytes, detail: str) -> None:
    reply = await api("POST", START, body=body)
    assert reply.status == 400
    assert reply.json["code"] == "400"
    # Python words the same fault in its own way from version to version.
    assert reply.json["error"].partition(": ")[0] == detail.partition(": ")[0]
    if not detail.startswith("The body is not JSON: ") or " is no JSON number" in detail:
        assert reply.json["error"] == detail


async def test_bad_json_is_400_in_the_envelope_too(api: Any) -> None:
    reply = await api("POST", "/v1/things", body=b"[NaN]", headers={"X-Request-Id": "r"})
    assert reply.status == 400
    assert reply.json == {
        "error": {
            "type": "invalid_request",
            "code": "bad_json",
            "message": "The body is not JSON: NaN is no JSON number",
            "param": None,
            "request_id": "r",
        }
    }


@pytest.mark.parametrize("value", [[], "text", 1, None, True])
async def test_json_other_than_an_object_is_400(api: Any, value: Any) -> None:
    body = {None: b"null"}.get(value) if value is None else None
    reply = await api("POST", START, value=value, body=body)
    assert reply.status == 400
    assert "object" in reply.json["error"]


async def test_nesting_at_the_limit_passes(api: Any) -> None:
    deep: list[Any] = []
    for _ in range(62):
        deep = [deep]
    reply = await api("POST", START, value={"body": deep})
    assert (reply.status, reply.json["body"]) == (200, deep)


async def test_all_of_unicode_passes(api: Any) -> None:
    text = 'é €  \U0001f4de "\\ \x7f \u2028'
    reply = await api("POST", START, value={"body": text})  # the telephone as two escapes
    assert reply.json["body"] == text
    reply = await api("POST", START, body=b'{"body": "\xf0\x9f\x93\x9e"}')
    assert reply.json["body"] == "\U0001f4de"


async def test_no_body_counts_as_an_empty_object(api: Any) -> None:
    reply = await api("POST", START)
    assert (reply.status, reply.json["body"]) == (200, None)
    reply = await api("POST", "/v1/things", headers={"X-Request-Id": "r"})
    assert (reply.status, reply.json["error"]["message"]) == (422, "agent: Field required")


async def test_a_whole_number_may_be_written_with_a_point(api: Any) -> None:
    transport = b'{"agent": "support", "transport": {"type": "daily", "rate_hz": %s}}'
    assert (await api("POST", "/v1/things", body=transport % b"16000.0")).status == 201
    assert (await api("POST", "/v1/things", body=transport % b"1.6e4")).status == 201
    for other in (b"16000.5", b'"16000"', b"true", b"1.0"):
        assert (await api("POST", "/v1/things", body=transport % other)).status == 422


# Content types


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json; charset=utf-8",
        'Application/JSON;charset="UTF-8"',
        "application/a+json",
    ],
)
async def test_json_media_types_are_accepted(api: Any, kind: str) -> None:
    reply = await api("POST", START, body=b"{}", headers={"Content-Type": kind})
    assert reply.status == 200


async def test_a_body_without_a_content_type_counts_as_json(api: Any) -> None:
    reply, _, _ = await api.says(HEAD + b"Content-Length: 2\r\n\r\n{}")
    assert reply.status == 200


@pytest.mark.parametrize(
    ("header", "value", "detail"),
    [
        ("Content-Type", "text/plain", "The body's Content-Type must be application/json"),
        (
            "Content-Type",
            "application/x-www-form-urlencoded",
            "The body's Content-Type must be application/json",
        ),
        ("Content-Type", "", "The body's Content-Type must be application/json"),
        ("Content-Type", "application/jsonp", "The body's Content-Type must be application/json"),
        ("Content-Type", "application/json; charset=latin-1", "The body's charset must be utf-8"),
        ("Content-Type", "application/json; charset=utf-16", "The body's charset must be utf-8"),
        ("Content-Encoding", "gzip", "The body is compressed (gzip), which is not taken here"),
    ],
)
async def test_other_media_types_are_400(api: Any, header: str, value: str, detail: str) -> None:
    reply = await api("POST", START, body=b"{}", headers={header: value})
    assert (reply.status, reply.json) == (400, {"error": detail, "info": detail, "code": "400"})


# Sizes


async def test_the_largest_body_passes(api: Any) -> None:
    body = b'{"body":"' + b"a" * (MAX_BYTES - 11) + b'"}'
    reply = await api("POST", START, body=body)
    assert (reply.status, reply.json["bytes"]) == (200, MAX_BYTES)


async def test_one_byte_more_is_413(api: Any) -> None:
    reply = await api("POST", START, body=b'{"body":"' + b"a" * (MAX_BYTES - 10) + b'"}')
    assert (reply.status, reply.json) == (413, TOO_LARGE)


async def test_a_declared_size_over_the_limit_is_refused_before_the_body(api: Any) -> None:
    reply, _, _ = await api.says(HEAD + b"Content-Length: 10001\r\nExpect: 100-continue\r\n\r\n")
    assert (reply.status, reply.json) == (413, TOO_LARGE)
    assert reply.header("Connection") == "close"


async def test_a_chunked_body_without_end_is_refused_as_soon_as_it_is_too_large(api: Any) -> None:
    """The client that goes on writing reads its answer, and is then let go."""
    reader, writer = await api.connect()
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"

    async def write_on() -> None:
        while True:
            writer.write(chunk)
            await writer.drain()

    async with asyncio.timeout(WAIT_S):
        endless = asyncio.create_task(write_on())
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(
            len(b'{"error":"","info":"","code":"413"}') + 2 * len(TOO_LARGE["error"])
        )
        with pytest.raises(ConnectionError):
            await endless
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in head
    assert TOO_LARGE["error"].encode() in body


async def test_in_the_envelope_too_large_is_an_invalid_request(api: Any) -> None:
    reply, _, _ = await api.says(ENVELOPE_HEAD + b"Content-Length: 32769\r\n\r\n")
    assert reply.status == 413
    assert reply.json == {
        "error": {
            "type": "invalid_request",
            "code": "too_large",
            "message": "The request's body is larger than 32768 bytes",
            "param": None,
            "request_id": "r",
        }
    }


async def test_a_large_body_without_a_key_is_not_read(api: Any) -> None:
    head = HEAD.replace(b"pk_acme", b"pk_nobody")
    reply, _, _ = await api.says(head + b"Content-Length: 1000000000\r\n\r\n", b"a" * 1000)
    assert reply.status == 401
    assert reply.header("Connection") == "close"


async def test_raw_bodies_have_a_limit_too(api: Any) -> None:
    reply = await api("POST", "/v1/hooks/acme", key=None, body=b"\xff\0" * 500)
    assert (reply.status, reply.json) == (200, {"bytes": 1000, "organization": "acme"})
    reply = await api("POST", "/v1/hooks/acme", key=None, body=b"a" * 1001)
    assert reply.status == 413


# Time


async def test_a_body_that_does_not_arrive_is_408(serve: Callable[..., Any]) -> None:
    api = await serve(body_timeout_s=0.05)
    reply, _, _ = await api.says(HEAD + b"Content-Length: 10\r\n\r\n", b'{"a"')
    assert reply.status == 408
    assert reply.json == {
        "error": "The request's body did not come within 0.05 s",
        "info": "The request's body did not come within 0.05 s",
        "code": "408",
    }
    reply, _, _ = await api.says(ENVELOPE_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n")
    assert reply.status == 408
    assert (reply.json["error"]["type"], reply.json["error"]["code"]) == (
        "invalid_request",
        "request_timeout",
    )


async def test_a_client_that_leaves_in_its_body_affects_no_other(api: Any) -> None:
    _, writer = await api.connect()
    writer.write(HEAD + b"Content-Length: 10\r\n\r\n" + b"{")
    writer.close()
    await writer.wait_closed()
    reply = await api("POST", START, value={})
    assert reply.status == 200


async def test_a_connection_lives_on_after_a_body_that_was_read(api: Any) -> None:
    request = HEAD + b"Content-Length: 2\r\n\r\n{}"
    reply, reader, writer = await api.says(request)
    assert reply.header("Connection") is None
    writer.write(request)
    async with asyncio.timeout(WAIT_S):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
