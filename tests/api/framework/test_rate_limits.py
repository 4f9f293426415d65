# SPDX-License-Identifier: BSD-2-Clause
"""The limits of requests a second: 429 for each key, and for addresses that try unknown keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


async def test_too_many_requests_are_429(serve: Callable[..., Any], clock: Any) -> None:
    api = await serve(requests_per_second=0.25, requests_burst=2)
    assert [(await api("GET", "/v1/toys")).status for _ in range(2)] == [200, 200]
    reply = await api("GET", "/v1/toys")
    assert reply.status == 429
    assert reply.header("Retry-After") == "4"
    assert reply.json == {
        "status": 429,
        "code": "429",
        "error": "More requests were made with this key than it may make a second",
        "info": "More requests were made with this key than it may make a second",
        "message": "Rate limit exceeded. Please try again later",
    }
    reply = await api("GET", "/v1/things/7", headers={"X-Request-Id": "r"})
    assert (reply.status, reply.header("Retry-After")) == (429, "4")
    assert reply.json == {
        "error": {
            "type": "rate_limit",
            "code": "rate_limited",
            "message": "More requests were made with this key than it may make a second",
            "param": None,
            "request_id": "r",
        }
    }
    assert (await api("GET", "/v1/toys", key="sk_globex")).status == 200
    clock.now += 4
    assert (await api("GET", "/v1/toys")).status == 200
    assert (await api("GET", "/v1/toys")).status == 429


async def test_unknown_keys_are_counted_by_address(serve: Callable[..., Any], clock: Any) -> None:
    api = await serve(requests_per_second=0.25, requests_burst=2)
    assert (await api("GET", "/v1/toys")).status == 200
    tried = [await api("GET", "/v1/toys", key=f"sk_guess{number}") for number in range(3)]
    assert [reply.status for reply in tried] == [401, 401, 429]
    assert tried[2].header("Retry-After") == "4"
    assert "this address" in tried[2].json["error"]
    limited = await api("GET", "/v1/things/7", key="sk_guess")
    assert (limited.status, limited.json["error"]["code"]) == (429, "rate_limited")
    # Whoever shares the address and was let in before is let in; who was not has to wait.
    assert (await api("GET", "/v1/toys")).status == 200
    assert (await api("GET", "/v1/toys", key="sk_globex")).status == 429
    clock.now += 4
    assert (await api("GET", "/v1/toys", key="sk_globex")).status == 200
    assert (await api("GET", "/v1/toys", key="sk_guess")).status == 401
    assert (await api("GET", "/v1/toys", key="sk_guess")).status == 429


async def test_a_public_key_for_a_private_operation_is_counted(serve: Callable[..., Any]) -> None:
    api = await serve(requests_per_second=0.25, requests_burst=2)
    statuses = [(await api("GET", "/v1/toys", key="pk_acme")).status for _ in range(3)]
    assert statuses == [401, 401, 429]
    assert (await api("GET", "/v1/toys", key="sk_guess")).status == 401


async def test_operations_without_a_key_are_not_counted(serve: Callable[..., Any]) -> None:
    api = await serve(requests_per_second=0.25, requests_burst=1)
    for _ in range(3):
        assert (await api("POST", "/v1/hooks/acme", key=None, body=b"a")).status == 200
        assert (await api("GET", "/v1/toys", key=None)).status == 401
        assert (await api("OPTIONS", "/v1/toys", key=None)).status == 204
