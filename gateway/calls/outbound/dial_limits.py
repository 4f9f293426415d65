# SPDX-License-Identifier: BSD-2-Clause
"""Before a carrier is asked for a call: who may be called, how often, and when it is this call's turn.

All of it holds over all workers. What is counted is counted with documents that are written if they are
absent, because that is the one step that exactly one of many workers gets.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gateway.config import CarrierAccount, Organization
from gateway.model.addresses import is_phone_number
from gateway.model.futures import ignore_exception
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import KeyValueStore, StoreFailed

MINUTE_S: Final = 60.0
SLOT_KEPT_S: Final = 5.0
"""How much longer a place in the line is known than it is long, lest clocks that differ sell it twice."""

_TICKETS: Final = "dial_ticket"
_SLOTS: Final = "dial_slot"
_DIGITS: Final = 15


def check_number(number: str, organization: Organization | None) -> None:
    """Raises CallEnded: bad_request for what is no number, number_refused for one that may not be called."""
    if not is_phone_number(number):
        raise CallEnded(Reasons.bad_request, "the number is not in E.164 form: + and 7 to 15 digits")
    prefixes = organization.dial_prefixes if organization is not None else []
    if not prefixes:
        raise CallEnded(Reasons.number_refused, "the organisation calls nobody: it has no dial_prefixes")
    if not number.startswith(tuple(prefixes)):
        raise CallEnded(Reasons.number_refused, "the organisation's dial_prefixes do not allow this number")


class CallRateLimiter:
    """How many calls out an organisation asks for in any minute.

    There are as many tickets as calls are allowed, and one that is taken is gone for a minute.
    """

    def __init__(self, documents: KeyValueStore, now: Callable[[], float]) -> None:
        """`now`: Unix seconds."""
        self._documents = documents
        self._now = now

    async def take(self, organization: Organization) -> str:
        """A ticket. Raises CallEnded(rate_limited) where none is left, StoreFailed."""
        prefix = f"{organization.name}/"
        now = self._now()
        taken = {document.key for document in await self._documents.list(_TICKETS, now, prefix)}
        for number in range(organization.dial_per_minute):
            ticket = f"{prefix}{number}"
            if ticket not in taken and await self._documents.put_if_absent(
                _TICKETS, ticket, "true", now=now, expires_at=now + MINUTE_S
            ):
                return ticket
        detail = f"the organisation has asked for {organization.dial_per_minute} calls out within a minute"
        raise CallEnded(Reasons.rate_limited, detail)

    async def give_back(self, ticket: str) -> None:
        """Nothing was called with it."""
        with suppress(StoreFailed):  # it is good again in a minute
            await self._documents.delete(_TICKETS, ticket)


class CpsLimiter:
    """The line before each carrier account: `calls_per_second` of it, and no two at once.

    Time is cut into slots, one call's each. Who comes takes the first that is free and waits until it begins;
    who gives up leaves it to whoever comes next.
    """

    def __init__(self, documents: KeyValueStore, now: Callable[[], float]) -> None:
        """`now`: Unix seconds."""
        self._documents = documents
        self._now = now
        self._freeing: set[asyncio.Task[bool]] = set()

    async def turn(self, account: CarrierAccount, longest_s: float) -> None:
        """Returns when it is this call's turn. Raises CallEnded(carrier_busy) where that is later than in
        `longest_s`, at once; StoreFailed."""
        rate = account.calls_per_second
        prefix = f"{cps_limiter_of(account)}/"
        began = self._now()
        first = math.ceil(began * rate)
        taken = {document.key for document in await self._documents.list(_SLOTS, began, prefix)}
        slot = first
        while True:
            begins_at = slot / rate
            if begins_at - began > longest_s:
                detail = f"more calls wait for {account.carrier} than it takes within {longest_s:g} s"
                raise CallEnded(Reasons.carrier_busy, detail)
            key = f"{prefix}{slot:0{_DIGITS}d}"
            if key not in taken and await self._documents.put_if_absent(
                _SLOTS, key, "true", now=began, expires_at=begins_at + 1 / rate + SLOT_KEPT_S
            ):
                break
            slot += 1
        try:
            await asyncio.sleep(begins_at - self._now())
        except asyncio.CancelledError:
            if self._now() < begins_at:
                self._free(key)
            raise

    def _free(self, key: str) -> None:
        """Gives a slot back that has not begun; nobody needs to wait for that."""
        task = asyncio.ensure_future(self._documents.delete(_SLOTS, key))
        self._freeing.add(task)
        task.add_done_callback(self._freeing.discard)
        task.add_done_callback(ignore_exception)  # the slot passes unused, then


def cps_limiter_of(account: CarrierAccount) -> str:
    """What names an account's line: the same account is one line, whoever configured it."""
    name = account.account or account.auth_id or account.connection_id
    if name is None and account.api_key is not None:
        name = hashlib.sha256(account.api_key.get_secret_value().encode()).hexdigest()[:16]
    return f"{account.carrier}/{name}"
