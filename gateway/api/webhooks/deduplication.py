# SPDX-License-Identifier: BSD-2-Clause
"""Deduplication of webhooks: carriers repeat them, and any worker may receive the repetition.

A webhook whose signature does not cover its URL is good for one agent alone, the first that it is sent to:
who has seen it cannot send it to another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import structlog
from starlette.datastructures import Headers

from gateway.api.framework.handler_services import Services
from gateway.calls.services import CallServices
from gateway.carriers.signatures import REPLAY_WINDOW_S
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import StoreFailed
from gateway.store.notifications import Subscription, Topic

log = structlog.get_logger(__name__)

MIN_INTERVAL_S: Final = 0.05
"""Least time between two reads of a record by a webhook that waits for another one's."""


def joined(headers: Headers, name: str) -> str | None:
    """Return the header's values joined by commas, as signatures cover them; None for a missing header."""
    return ",".join(headers.getlist(name)) or None


SIGNED_WEBHOOKS: Final = "signed_webhook"
"""The store's kind of the agents that signed webhooks were for."""

SIGNED_S: Final = 2 * REPLAY_WINDOW_S
"""Seconds for which the agent of a signed webhook is on record whose signature has a time: its clock may be
ahead by as much as it may be behind.
"""


async def take_for(calls: CallServices, agent: str, signature: str, lifetime_s: float = SIGNED_S) -> None:
    """Note that a signed webhook is for this agent (AGENT.ORG), unless it is noted already.

    `signature`: valid, as it was received. Raises CallEnded(unauthorized) if it was for another; StoreFailed.
    """
    now, values = calls.now(), calls.store.key_values
    key = hashlib.sha256(signature.encode()).hexdigest()
    if await values.put_if_absent(
        SIGNED_WEBHOOKS, key, json.dumps(agent), now=now, expires_at=now + lifetime_s
    ):
        return
    taken = await values.get(SIGNED_WEBHOOKS, key, now)
    if taken is not None and json.loads(taken.value) != agent:
        raise CallEnded(Reasons.unauthorized, "the same signed request was for another agent")


class SharedCall:
    """The record of one call in the store, which the call's first webhook creates and all workers read."""

    def __init__(self, services: Services, kind: str, *identity: str) -> None:
        """`kind`: the store's kind of the record.

        `identity`: the names of the call, the agent's service host first.
        """
        self._key_values = services.calls.store.key_values
        self._notifications = services.calls.store.notifications
        self._now = services.calls.now
        self._kind = kind
        self._key = hashlib.sha256("\0".join(identity).encode()).hexdigest()

    async def claim(self, value: Mapping[str, Any], lease_s: float) -> bool:
        """Create the record and return True if this is the call's first webhook. Raises StoreFailed.

        The record expires after `lease_s` seconds, so that a worker that dies does not block the call.
        """
        now = self._now()
        return await self._key_values.put_if_absent(
            self._kind, self._key, json.dumps(value), now=now, expires_at=now + lease_s
        )

    async def get(self) -> dict[str, Any] | None:
        """Return the record, None if there is none. Raises StoreFailed."""
        stored = await self._key_values.get(self._kind, self._key, self._now())
        return None if stored is None else json.loads(stored.value)

    def subscribe(self) -> Subscription:
        """Subscribe to changes of the record, for a webhook that waits for the one before it."""
        return self._notifications.subscribe(Topic.WEBHOOK_CALL_CHANGED, key=self._key, urgent=True)

    async def save(self, value: Mapping[str, Any], lifetime_s: float) -> None:
        """Replace the record for `lifetime_s` seconds. A failure of the store is logged, not raised."""
        now = self._now()
        try:
            await self._key_values.put(
                self._kind, self._key, json.dumps(value), now=now, expires_at=now + lifetime_s
            )
        except StoreFailed as error:
            log.warning("store", error=str(error))  # the session runs, and the webhook must get its answer
        self._notifications.publish(Topic.WEBHOOK_CALL_CHANGED, self._key)

    async def forget(self) -> None:
        """Delete the record after a failed start, so that the next webhook counts as the first."""
        try:
            await self._key_values.delete(self._kind, self._key)
        except StoreFailed as error:
            log.warning("store", error=str(error))  # the record expires with its lease
        self._notifications.publish(Topic.WEBHOOK_CALL_CHANGED, self._key)
