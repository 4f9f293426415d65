# SPDX-License-Identifier: BSD-2-Clause
"""Waiting for API keys to be revoked, by whichever worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from gateway.auth.api_keys import Keyring, Principal
from gateway.store.interface import StoreFailed
from gateway.store.notifications import Notifications, Subscription, Topic

log = structlog.get_logger(__name__)

LOOK_S: Final = 0.5
"""The least time between two looks at the keys."""

Revoked = asyncio.Future[None]


class KeyEvents:
    """The connections of this worker that are open on the strength of an API key, by its owner.

    All share one look at the store after each notification. While there are none, nothing is read.
    """

    def __init__(self, api_keys: Keyring, notifications: Notifications) -> None:
        self._api_keys = api_keys
        self._notifications = notifications
        self._waiting: dict[Principal, set[Revoked]] = {}
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def waiters(self) -> int:
        """The number of connections that are watched."""
        return sum(map(len, self._waiting.values()))

    def keys_configured(self) -> None:
        """End what is open with keys that the configuration has not any more, or of organisations."""
        for principal in list(self._waiting):
            if self._api_keys.is_removed(principal):
                self._report(principal)

    @contextmanager
    def waiting(self, principal: Principal) -> Iterator[Revoked]:
        """Give a future that is done once the owner's key is not valid any more. Leaving cancels it."""
        revoked: Revoked = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(principal, set()).add(revoked)
        if self._subscription is not None:
            self._subscription.wake()  # the key may have been revoked since it was checked
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        try:
            yield revoked
        finally:
            revoked.cancel()
            waiters = self._waiting.get(principal, set())
            waiters.discard(revoked)
            if not waiters:
                self._waiting.pop(principal, None)
            if not self._waiting and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _follow(self) -> None:
        with self._notifications.subscribe(Topic.KEY_REVOKED) as subscription:
            self._subscription = subscription
            in_trouble = False
            try:
                while True:
                    await subscription.wait(min_interval_s=LOOK_S)
                    try:
                        for principal in await self._api_keys.revoked(list(self._waiting)):
                            self._report(principal)
                        in_trouble = False
                    except StoreFailed as error:
                        if not in_trouble and not error.is_reported:
                            log.warning("store", error=str(error))
                        in_trouble = True
                        subscription.retry()
            finally:
                self._subscription = None

    def _report(self, principal: Principal) -> None:
        for revoked in self._waiting.get(principal, ()):
            if not revoked.done():
                revoked.set_result(None)
