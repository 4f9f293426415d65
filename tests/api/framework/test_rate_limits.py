# SPDX-License-Identifier: BSD-2-Clause
"""How many requests a key may make; the clock is held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.auth import rate_limits
from gateway.auth import rate_limits as strangers_module
from gateway.auth.rate_limits import FailedKeyLimiter, RateLimiter


def test_a_burst_passes_and_then_it_is_so_many_a_second() -> None:
    rates = RateLimiter(per_second=2.0, burst=3)
    assert [rates.take("a", 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert rates.take("a", 100.25) == 0.25
    assert rates.take("a", 100.5) == 0.0
    assert rates.take("a", 100.5) == 0.5
    assert [rates.take("a", 1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_each_key_has_its_own() -> None:
    rates = RateLimiter(per_second=1.0, burst=1)
    assert rates.take("a", 0.0) == 0.0
    assert rates.take("b", 0.0) == 0.0
    assert rates.take("a", 0.0) == 1.0


def test_a_clock_that_is_set_back_locks_nobody_out() -> None:
    rates = RateLimiter(per_second=1.0, burst=1)
    assert rates.take("a", 10_000.0) == 0.0
    assert rates.take("a", 5.0) == 1.0
    assert rates.take("a", 6.0) == 0.0


def test_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_BUCKETS", 2)
    rates = RateLimiter(per_second=1.0, burst=1)
    for name in "abc":
        assert rates.take(name, 0.0) == 0.0
    assert rates.take("c", 0.0) == 1.0
    assert rates.take("a", 0.0) == 0.0  # forgotten, so full again


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


async def test_keys_that_open_nothing_are_counted_by_their_address(
    serve: Callable[..., Any], clock: Any
) -> None:
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


async def test_a_public_key_that_wants_too_much_is_counted_as_any_other(serve: Callable[..., Any]) -> None:
    api = await serve(requests_per_second=0.25, requests_burst=2)
    statuses = [(await api("GET", "/v1/toys", key="pk_acme")).status for _ in range(3)]
    assert statuses == [401, 401, 429]
    assert (await api("GET", "/v1/toys", key="sk_guess")).status == 401


def test_an_address_is_as_much_as_one_customer_has() -> None:
    strangers = FailedKeyLimiter(RateLimiter(per_second=1.0, burst=1))
    strangers.record_failure("a", "2001:db8:1:2::7", 0.0)
    assert strangers.retry_after_s("b", "2001:db8:1:2:ffff::9", 0.0) == 1.0
    assert strangers.retry_after_s("b", "2001:db8:1:3::7", 0.0) == 0.0
    strangers.record_failure("a", "fe80::1%eth0", 0.0)
    assert strangers.retry_after_s("b", "fe80::2%eth0", 0.0) == 1.0
    strangers.record_failure("a", "192.0.2.7", 0.0)
    assert strangers.retry_after_s("b", "192.0.2.8", 0.0) == 0.0
    strangers.record_failure("a", "", 0.0)
    assert strangers.retry_after_s("b", "", 0.0) == 1.0


def test_few_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers_module, "MAX_KNOWN", 2)
    strangers = FailedKeyLimiter(RateLimiter(per_second=1.0, burst=1))
    strangers.record_failure("x", "192.0.2.7", 0.0)
    for key in "abac":
        strangers.record_success(key)
    assert [strangers.retry_after_s(key, "192.0.2.7", 0.0) for key in "abc"] == [0.0, 1.0, 0.0]
    strangers.record_failure("a", "192.0.2.7", 0.0)  # revoked
    assert strangers.retry_after_s("a", "192.0.2.7", 0.0) == 1.0


async def test_what_asks_for_no_key_is_not_counted(serve: Callable[..., Any]) -> None:
    api = await serve(requests_per_second=0.25, requests_burst=1)
    for _ in range(3):
        assert (await api("POST", "/v1/hooks/acme", key=None, body=b"a")).status == 200
        assert (await api("GET", "/v1/toys", key=None)).status == 401
        assert (await api("OPTIONS", "/v1/toys", key=None)).status == 204
