# SPDX-License-Identifier: BSD-2-Clause
"""The guard of what costs money: destinations in every spelling, and how many calls a minute may have."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.calls.spending import CallRateLimiter, check_destination, check_number, destinations
from gateway.config import Organization
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.sqlite.sqlite_store import SqliteStore
from tests.harness.clock import Clock

NOW = 1000.0


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


def acme(**more: Any) -> Organization:
    return Organization.model_validate({"name": "acme", "dial_prefixes": ["+1", "+4930"]} | more)


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


async def test_several_calls_are_counted_or_none(stores: list[SqliteStore], clock: Clock) -> None:
    limiter = CallRateLimiter(stores[0].key_values, clock)
    organization = acme(dial_per_minute=3)
    await limiter.acquire(organization)
    with pytest.raises(CallEnded):
        await limiter.acquire_all(organization, 3)
    await limiter.acquire_all(organization, 2)


async def test_forwarded_calls_are_counted_apart_from_calls_out(
    stores: list[SqliteStore], clock: Clock
) -> None:
    limiters = [CallRateLimiter(store.key_values, clock) for store in stores]
    organization = acme(dial_per_minute=1, forward_per_minute=2, dial_prefixes=[])
    await limiters[0].acquire(organization)
    for limiter in limiters:
        await limiter.acquire_forwarding(organization)
    with pytest.raises(CallEnded) as refused:
        await limiters[0].acquire_forwarding(organization)
    assert refused.value.reason is Reasons.rate_limited
    await limiters[0].acquire_forwarding(None)  # an organisation that is not configured has no limit


ALLOWED = [
    "+14155550142",
    "tel:+14155550142",
    "tel:+1-415-555-0142;ext=7",
    "sip:+14155550142@trunk.example.com",
    "SIPS:+1(415)555-0142@trunk.example.com",
    "sip:+14155550142;phone-context=x@trunk.example.com:5061;transport=tls",
    "sip:desk@pbx.example.com",
    "sip:4711@pbx.example.com",
    "sip:customer-4711@pbx.example.com",
    "sip:pbx.example.com",
    "sip:192.0.2.7",
    "sip:192.0.2.7:5060;transport=tcp",
    "sip:desk@[2001:db8::7]:5060",
]
REFUSED = [
    "+882123456789",
    "tel:+882123456789",
    "sip:+882123456789@trunk.example.com",
    "SIP:+882123456789@trunk.example.com",
    "sips:+88-2123.456(789)@trunk.example.com",
    "sip:%2b882123456789@trunk.example.com",
    "sip:%252b882123456789@trunk.example.com",
    "sip:+88212%33456789@trunk.example.com",
    "sip:+882123456789;user=phone@trunk.example.com",
    "sip:+882123456789",
    "sip:00882123456789@trunk.example.com",
    "sip:14155550142@trunk.example.com",
    "sip:*67882123456789@trunk.example.com",
]
"""The last ones are no E.164: which number they are depends on who reads them."""
MEANINGLESS = [
    "",
    "4155550142",
    "desk",
    "sip:",
    "sip:@trunk.example.com",
    "sip:desk@",
    "sip:desk@pbx.example.com@trunk.example.com",
    "sip:desk@pbx.example.com?Route=x",
    "sip:de%20sk@pbx.example.com",
    "sip:desk:secret@pbx.example.com",
    "sip:sip:+14155550142@trunk.example.com",
    "sip:tel%3A+14155550142@trunk.example.com",
    "sip:%40+14155550142@trunk.example.com",
    "sip:%EF%BC%91@pbx.example.com",
    "sip:+0@trunk.example.com",
    "tel:4155550142",
    "http://pbx.example.com",
]


@pytest.mark.parametrize("to", ALLOWED)
def test_a_destination_that_the_prefixes_allow(to: str) -> None:
    check_destination(to, acme())


@pytest.mark.parametrize("to", REFUSED)
def test_a_number_that_no_prefix_allows_is_refused_however_it_is_written(to: str) -> None:
    with pytest.raises(CallEnded) as refused:
        check_destination(to, acme())
    assert refused.value.reason is Reasons.number_refused
    assert "882123456789" not in refused.value.detail
    check_destination(to, acme(dial_prefixes=["+"]))


@pytest.mark.parametrize("to", MEANINGLESS)
def test_what_is_no_destination_is_refused(to: str) -> None:
    with pytest.raises(CallEnded) as refused:
        check_destination(to, acme(dial_prefixes=["+"]))
    assert refused.value.reason is Reasons.bad_request


@pytest.mark.parametrize("to", ["+14155550142", "sip:+14155550142@trunk.example.com", "sip:desk@pbx.test"])
def test_an_organisation_that_is_not_configured_calls_nobody(to: str) -> None:
    with pytest.raises(CallEnded) as refused:
        check_destination(to, None)
    assert refused.value.reason is Reasons.number_refused


@pytest.mark.parametrize(
    ("settings", "called"),
    [
        ([{"phoneNumber": "+1415", "callerId": "+1999"}, {"sipUri": "sip:a@b"}], ["+1415", "sip:a@b"]),
        ({"phone_number": "4155550142", "caller_id": "x"}, ["4155550142"]),
        ({"phone_number": 4155550142}, ["4155550142"]),
        ({"desk": {"anywhere": " +1415"}, "note": "hello", "displayName": "+1999"}, [" +1415"]),
        ("tel:+1415", ["tel:+1415"]),
    ],
)
def test_everybody_whom_a_rooms_agent_is_to_call(settings: Any, called: list[str]) -> None:
    assert destinations(settings) == called


@pytest.mark.parametrize("settings", [[{"callerId": "+1999"}], {"note": "hello"}, [1], "desk"])
def test_settings_that_name_nobody(settings: Any) -> None:
    with pytest.raises(CallEnded) as refused:
        destinations(settings)
    assert refused.value.reason is Reasons.bad_request
