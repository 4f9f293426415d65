# SPDX-License-Identifier: BSD-2-Clause
"""The calls that an account may dial in a second; two workers' stores on one file."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.calls.outbound.dial_limits import CpsLimiter, account_key
from gateway.config import CarrierAccount
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.sqlite.sqlite_store import SqliteStore
from tests.harness.clock import Clock

NOW = 1000.0


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that calls would have waited; they return at once."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(round(seconds, 6))

    monkeypatch.setattr("gateway.calls.outbound.dial_limits.asyncio.sleep", sleep)
    return waits


def account(**more: Any) -> CarrierAccount:
    return CarrierAccount.model_validate({"carrier": "twilio", "account": "AC1", "auth_tokens": ["t"]} | more)


async def test_each_call_has_a_turn_of_its_own(
    stores: list[SqliteStore], clock: Clock, waits: list[float]
) -> None:
    limiters = [CpsLimiter(store.key_values, clock) for store in stores]
    fast = account(calls_per_second=2)
    await asyncio.gather(*(limiter.wait_for_turn(fast, 60) for limiter in limiters for _ in range(4)))
    assert sorted(waits) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]


async def test_accounts_do_not_wait_for_each_other(
    stores: list[SqliteStore], clock: Clock, waits: list[float]
) -> None:
    limiter = CpsLimiter(stores[0].key_values, clock)
    for name in ("AC1", "AC2", "AC1"):
        await limiter.wait_for_turn(account(account=name), 60)
    assert waits == [0.0, 0.0, 1.0]


async def test_a_call_that_would_wait_too_long_is_refused_at_once(
    stores: list[SqliteStore], clock: Clock, waits: list[float]
) -> None:
    limiter = CpsLimiter(stores[0].key_values, clock)
    for _ in range(3):
        await limiter.wait_for_turn(account(), 2)
    with pytest.raises(CallEnded) as refused:
        await limiter.wait_for_turn(account(), 2)
    assert refused.value.reason is Reasons.carrier_busy
    assert waits == [0.0, 1.0, 2.0]


async def test_a_call_that_is_given_up_frees_its_turn(stores: list[SqliteStore], clock: Clock) -> None:
    limiter = CpsLimiter(stores[0].key_values, clock)
    clock.now = NOW + 0.5
    waiting = asyncio.create_task(limiter.wait_for_turn(account(calls_per_second=0.001), 3600))
    while not await stores[1].key_values.list("dial_slot", clock.now):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    while await stores[1].key_values.list("dial_slot", clock.now):
        await asyncio.sleep(0)


def test_the_key_of_an_account_holds_no_secret() -> None:
    assert account_key(account()) == "twilio/AC1"
    telnyx = CarrierAccount.model_validate({"carrier": "telnyx", "api_key": "KEY-s3cret"})
    assert "s3cret" not in account_key(telnyx)
