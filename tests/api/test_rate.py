# SPDX-License-Identifier: BSD-2-Clause
"""How many requests a key may make; the clock is held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.api import rate
from gateway.api.rate import Rates


def test_a_burst_passes_and_then_it_is_so_many_a_second() -> None:
    rates = Rates(per_second=2.0, burst=3)
    assert [rates.take("a", 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert rates.take("a", 100.25) == 0.25
    assert rates.take("a", 100.5) == 0.0
    assert rates.take("a", 100.5) == 0.5
    assert [rates.take("a", 1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_each_key_has_its_own() -> None:
    rates = Rates(per_second=1.0, burst=1)
    assert rates.take("a", 0.0) == 0.0
    assert rates.take("b", 0.0) == 0.0
    assert rates.take("a", 0.0) == 1.0


def test_a_clock_that_is_set_back_locks_nobody_out() -> None:
    rates = Rates(per_second=1.0, burst=1)
    assert rates.take("a", 10_000.0) == 0.0
    assert rates.take("a", 5.0) == 1.0
    assert rates.take("a", 6.0) == 0.0


def test_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "MAX_BUCKETS", 2)
    rates = Rates(per_second=1.0, burst=1)
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


async def test_what_asks_for_no_key_is_not_counted(serve: Callable[..., Any]) -> None:
    api = await serve(requests_per_second=0.25, requests_burst=1)
    for _ in range(3):
        assert (await api("POST", "/v1/hooks/acme", key=None, body=b"a")).status == 200
        assert (await api("GET", "/v1/toys", key=None)).status == 401
        assert (await api("OPTIONS", "/v1/toys", key=None)).status == 204
