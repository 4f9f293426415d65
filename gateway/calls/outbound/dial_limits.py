# SPDX-License-Identifier: BSD-2-Clause
"""The calls that a carrier account may dial in a second.

The rate holds over all workers. It is counted with stored values that are written only if they are absent,
because exactly one of many workers that try succeeds.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable
from typing import Final

from gateway.config import CarrierAccount
from gateway.model.futures import ignore_exception
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import KeyValueStore

CLOCK_SLACK_S: Final = 5.0
"""Seconds that a taken time slot is stored beyond its end, so that a worker whose clock is late does not take
it again.
"""

_TIME_SLOT_KIND: Final = "dial_slot"
_KEY_DIGITS: Final = 15


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
