# SPDX-License-Identifier: BSD-2-Clause
"""The line before a carrier, and who may be called how often; over two workers' stores on one file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.calls.outbound.dial_limits import CallRateLimiter, CpsLimiter, check_number, cps_limiter_of
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
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, which nobody does."""
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
    stores: list[SqliteStore], clock: Clock, slept: list[float]
) -> None:
    lines = [CpsLimiter(store.documents, clock) for store in stores]
    await asyncio.gather(*(line.turn(account(calls_per_second=2), 60) for line in lines for _ in range(4)))
    assert sorted(slept) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]


async def test_accounts_do_not_wait_for_each_other(
    stores: list[SqliteStore], clock: Clock, slept: list[float]
) -> None:
    line = CpsLimiter(stores[0].documents, clock)
    for name in ("AC1", "AC2", "AC1"):
        await line.turn(account(account=name), 60)
    assert slept == [0.0, 0.0, 1.0]


async def test_a_line_that_is_too_long_is_not_joined(
    stores: list[SqliteStore], clock: Clock, slept: list[float]
) -> None:
    line = CpsLimiter(stores[0].documents, clock)
    for _ in range(3):
        await line.turn(account(), 2)
    with pytest.raises(CallEnded) as refused:
        await line.turn(account(), 2)
    assert refused.value.reason is Reasons.carrier_busy
    assert slept == [0.0, 1.0, 2.0]


async def test_who_gives_up_leaves_the_turn_to_the_next(stores: list[SqliteStore], clock: Clock) -> None:
    line = CpsLimiter(stores[0].documents, clock)
    clock.now = NOW + 0.5
    waiting = asyncio.create_task(line.turn(account(calls_per_second=0.001), 3600))
    while not await stores[1].documents.list("dial_slot", clock.now):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    while await stores[1].documents.list("dial_slot", clock.now):
        await asyncio.sleep(0)


async def test_an_organisation_has_so_many_calls_a_minute(stores: list[SqliteStore], clock: Clock) -> None:
    minutes = [CallRateLimiter(store.documents, clock) for store in stores]
    organization = acme(dial_per_minute=3)
    asked = [each.take(organization) for each in minutes for _ in range(3)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, CallEnded)]
    assert {refusal.reason for refusal in refused} == {Reasons.rate_limited}
    assert len(refused) == 3
    clock.now += 59
    with pytest.raises(CallEnded):
        await minutes[0].take(organization)
    clock.now += 1
    await minutes[0].take(organization)


async def test_a_ticket_with_which_nobody_was_called_is_good_again(
    stores: list[SqliteStore], clock: Clock
) -> None:
    minutes = CallRateLimiter(stores[0].documents, clock)
    organization = acme(dial_per_minute=1)
    await minutes.give_back(await minutes.take(organization))
    await minutes.take(organization)


@pytest.mark.parametrize("number", ["+14155550142", "+493012345678"])
def test_numbers_that_a_prefix_allows(number: str) -> None:
    check_number(number, acme())


@pytest.mark.parametrize("number", ["+882123456789", "+49891234567", "+331234567"])
def test_numbers_that_no_prefix_allows(number: str) -> None:
    with pytest.raises(CallEnded) as refused:
        check_number(number, acme())
    assert refused.value.reason is Reasons.number_refused


@pytest.mark.parametrize("organization", [None, acme(dial_prefixes=[])])
def test_without_prefixes_nobody_is_called(organization: Organization | None) -> None:
    with pytest.raises(CallEnded) as refused:
        check_number("+14155550142", organization)
    assert refused.value.reason is Reasons.number_refused


def test_a_plus_allows_all() -> None:
    check_number("+882123456789", acme(dial_prefixes=["+"]))


def test_a_line_is_named_by_its_account_and_never_by_a_secret() -> None:
    assert cps_limiter_of(account()) == "twilio/AC1"
    telnyx = CarrierAccount.model_validate({"carrier": "telnyx", "api_key": "KEY-s3cret"})
    assert "s3cret" not in cps_limiter_of(telnyx)
