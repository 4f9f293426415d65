# SPDX-License-Identifier: BSD-2-Clause
"""Waiting for a slot, first come first served.

The store keeps one queue per agent, over all workers, and gives a free slot to the first call in it. Of the
calls that wait in this worker only the first of each agent asks for a slot; the others are behind it.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.store.interface import AtCapacity, NotPending, StoreFailed
from gateway.store.notifications import Notifications, Subscription, Topic

ASK_S: Final = 0.2
"""The least time between two requests of one call for a slot."""

INSTANCE_RECHECK_S: Final = 1.0
"""The longest time between them: an instance may become ready, or be tried again after failures, without any
notification of the store.
"""


class _QueuedCall:
    """A call that waits; ordered by its number in the store's queue."""

    __slots__ = ("is_first", "number", "subscription")

    def __init__(self, number: int, subscription: Subscription) -> None:
        self.number = number
        self.subscription = subscription
        self.is_first = asyncio.Event()

    def __lt__(self, other: _QueuedCall) -> bool:
        return self.number < other.number


class CallQueues:
    """The calls of this worker that wait for a slot, by agent."""

    def __init__(self, notifications: Notifications, *, ask_s: float = ASK_S) -> None:
        self._queues: dict[str, list[_QueuedCall]] = {}
        self._notifications = notifications
        self._ask_s = ask_s

    @property
    def waiting(self) -> int:
        """The number of calls that wait in this worker."""
        return sum(map(len, self._queues.values()))

    async def wait(
        self, agent: str, number: int, acquire: Callable[[], Awaitable[str]], timeout_s: float
    ) -> str:
        """Call `acquire` whenever the call may get a slot, and return its result once it has got one.

        `number`: of the first Queued that `acquire` raised. AtCapacity and StoreFailed mean to wait on.
        Raises TimeoutError after `timeout_s`, NotPending, and whatever else `acquire` raises.
        """
        with self._notifications.subscribe(Topic.SLOT_FREED) as subscription:
            call = _QueuedCall(number, subscription)
            queue = self._queues.setdefault(agent, [])
            insort(queue, call)
            if call is queue[0] and len(queue) > 1:
                queue[1].is_first.clear()
            self._advance(queue)
            try:
                async with asyncio.timeout(timeout_s):
                    while True:
                        await call.is_first.wait()
                        await subscription.wait(INSTANCE_RECHECK_S, min_interval_s=self._ask_s)
                        if not call.is_first.is_set():  # a call that came earlier has joined meanwhile
                            continue
                        try:
                            return await acquire()
                        except NotPending:
                            raise
                        except AtCapacity:
                            pass
                        except StoreFailed:
                            subscription.retry()
            finally:
                queue.remove(call)
                if queue:
                    self._advance(queue)
                else:
                    self._queues.pop(agent, None)

    def _advance(self, queue: list[_QueuedCall]) -> None:
        # What happened while it was behind another call may concern it now.
        if not queue[0].is_first.is_set():
            queue[0].is_first.set()
            queue[0].subscription.wake()
