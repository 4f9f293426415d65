# SPDX-License-Identifier: BSD-2-Clause
"""The limits of outbound calls: which numbers may be called, and how many calls a minute and a second.

The rates hold over all workers. They are counted with stored values that are written only if they are absent,
because exactly one of many workers that try succeeds.
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
CLOCK_SLACK_S: Final = 5.0
"""Seconds that a taken time slot is stored beyond its end, so that a worker whose clock is late does not take
it again.
"""

_RATE_KIND: Final = "dial_ticket"
_TIME_SLOT_KIND: Final = "dial_slot"
_KEY_DIGITS: Final = 15


def check_number(number: str, organization: Organization | None) -> None:
    """Raise CallEnded unless the organisation may call the number.

    bad_request: it is not in E.164 form. number_refused: the organisation's `dial_prefixes` do not allow it.
    """
    if not is_phone_number(number):
        raise CallEnded(Reasons.bad_request, "the number is not in E.164 form: + and 7 to 15 digits")
    prefixes = organization.dial_prefixes if organization is not None else []
    if not prefixes:
        raise CallEnded(Reasons.number_refused, "the organisation calls nobody: it has no dial_prefixes")
    if not number.startswith(tuple(prefixes)):
        raise CallEnded(Reasons.number_refused, "the organisation's dial_prefixes do not allow this number")


class CallRateLimiter:
    """An organisation's outbound calls and transfers in any minute: at most `dial_per_minute`.

    There are as many tokens as calls are allowed, and a token that is taken is free again after a minute.
    """

    def __init__(self, values: KeyValueStore, now: Callable[[], float]) -> None:
        """`now`: Unix seconds."""
        self._values = values
        self._now = now

    async def acquire(self, organization: Organization) -> str:
        """Take a token and return it. Raises CallEnded(rate_limited) if none is free; StoreFailed."""
        prefix = f"{organization.name}/"
        now = self._now()
        used = {value.key for value in await self._values.list(_RATE_KIND, now, prefix)}
        for number in range(organization.dial_per_minute):
            token = f"{prefix}{number}"
            if token not in used and await self._values.put_if_absent(
                _RATE_KIND, token, "true", now=now, expires_at=now + MINUTE_S
            ):
                return token
        detail = f"the organisation has asked for {organization.dial_per_minute} calls out within a minute"
        raise CallEnded(Reasons.rate_limited, detail)

    async def release(self, token: str) -> None:
        """Give back a token with which no number was called."""
        with suppress(StoreFailed):  # it is free again in a minute
            await self._values.delete(_RATE_KIND, token)


class CpsLimiter:
    """The calls per second of each carrier account: at most `calls_per_second`, over all workers.

    Time is cut into slots of one call each. A call takes the first free one and waits until it begins; a call
    that is given up before frees it for another.
    """

    def __init__(self, values: KeyValueStore, now: Callable[[], float]) -> None:
        """`now`: Unix seconds."""
        self._values = values
        self._now = now
        self._freeing: set[asyncio.Task[bool]] = set()

    async def wait_for_turn(self, account: CarrierAccount, max_wait_s: float) -> None:
        """Return when the account may dial one call.

        Raises CallEnded(carrier_busy) at once if that is later than in `max_wait_s` seconds; StoreFailed.
        """
        rate = account.calls_per_second
        prefix = f"{account_key(account)}/"
        began = self._now()
        used = {value.key for value in await self._values.list(_TIME_SLOT_KIND, began, prefix)}
        slot = math.ceil(began * rate)
        while True:
            begins_at = slot / rate
            if begins_at - began > max_wait_s:
                detail = f"more calls wait for {account.carrier} than it takes within {max_wait_s:g} s"
                raise CallEnded(Reasons.carrier_busy, detail)
            key = f"{prefix}{slot:0{_KEY_DIGITS}d}"
            if key not in used and await self._values.put_if_absent(
                _TIME_SLOT_KIND, key, "true", now=began, expires_at=begins_at + 1 / rate + CLOCK_SLACK_S
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
        """Free a time slot that has not begun, in a task of its own: the caller is being cancelled."""
        task = asyncio.ensure_future(self._values.delete(_TIME_SLOT_KIND, key))
        self._freeing.add(task)
        task.add_done_callback(self._freeing.discard)
        task.add_done_callback(ignore_exception)  # then the slot passes unused


def account_key(account: CarrierAccount) -> str:
    """Return a key for the account, which holds no secret.

    The same account has one key, and so one rate, in the tables of all organisations.
    """
    name = account.account or account.auth_id or account.connection_id
    if name is None and account.api_key is not None:
        name = hashlib.sha256(account.api_key.get_secret_value().encode()).hexdigest()[:16]
    return f"{account.carrier}/{name}"
