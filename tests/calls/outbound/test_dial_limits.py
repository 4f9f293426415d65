# SPDX-License-Identifier: BSD-2-Clause
"""The limits of outbound calls: numbers, calls a minute, calls a second; two workers' stores on one file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.calls.outbound.dial_limits import CallRateLimiter, CpsLimiter, account_key, check_number
from gateway.config import CarrierAccount, Organization
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from tests.harness.clock import Clock

NOW = 1000.0


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[list[SqliteStore]]:
    opened = []
    for name in ("one", "two"):
        opened.append(SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process(name)))
        await opened[-1].open()
    yield opened
    for store in opened:
        await store.close()


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


def acme(**more: Any) -> Organization:
    return Organization.model_validate({"name": "acme", "dial_prefixes": ["+1", "+4930"]} | more)


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


async def test_an_organisation_dials_a_limited_number_of_calls_a_minute(
    stores: list[SqliteStore], clock: Clock
) -> None:
    limiters = [CallRateLimiter(store.key_values, clock) for store in stores]
    organization = acme(dial_per_minute=3)
    requests = [limiter.acquire(organization) for limiter in limiters for _ in range(3)]
    answers = await asyncio.gather(*requests, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, CallEnded)]
    assert {error.reason for error in refused} == {Reasons.rate_limited}
    assert len(refused) == 3
    clock.now += 59
    with pytest.raises(CallEnded):
        await limiters[0].acquire(organization)
    clock.now += 1
    await limiters[0].acquire(organization)


async def test_a_released_token_is_free_again(stores: list[SqliteStore], clock: Clock) -> None:
    limiter = CallRateLimiter(stores[0].key_values, clock)
    organization = acme(dial_per_minute=1)
    await limiter.release(await limiter.acquire(organization))
    await limiter.acquire(organization)


@pytest.mark.parametrize("number", ["+14155550142", "+493012345678"])
def test_a_number_with_an_allowed_prefix_may_be_called(number: str) -> None:
    check_number(number, acme())


@pytest.mark.parametrize("number", ["+882123456789", "+49891234567", "+331234567"])
def test_a_number_without_an_allowed_prefix_is_refused(number: str) -> None:
    with pytest.raises(CallEnded) as refused:
        check_number(number, acme())
    assert refused.value.reason is Reasons.number_refused


@pytest.mark.parametrize("organization", [None, acme(dial_prefixes=[])])
def test_an_organisation_without_prefixes_calls_no_number(organization: Organization | None) -> None:
    with pytest.raises(CallEnded) as refused:
        check_number("+14155550142", organization)
    assert refused.value.reason is Reasons.number_refused


def test_a_plus_allows_all_numbers() -> None:
    check_number("+882123456789", acme(dial_prefixes=["+"]))


def test_the_key_of_an_account_holds_no_secret() -> None:
    assert account_key(account()) == "twilio/AC1"
    telnyx = CarrierAccount.model_validate({"carrier": "telnyx", "api_key": "KEY-s3cret"})
    assert "s3cret" not in account_key(telnyx)
