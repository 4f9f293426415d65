# SPDX-License-Identifier: BSD-2-Clause
"""Notifications between workers: that something happened, never what.

A subscriber waits, and then reads the state it is interested in from the store:

    with store.notifications.subscribe(Topic.STOP_REQUESTED) as subscription:
        while True:
            await subscription.wait()
            ...  # read the store; call subscription.retry() if that failed

Notifications are hints. A transport may merge them, send more than were published (SQLite only reports that
another process wrote something), or lose them (Redis delivers them at most once, and none while it
reconnects). So the first wait returns at once, and every wait returns after RECHECK_S at the latest.

Everything here belongs to the event loop of one worker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from enum import Enum
from types import TracebackType
from typing import Final, Protocol

RECHECK_S: Final = 5.0
"""How long a wait lasts without a notification.

It bounds the damage of a lost one. Each wait costs its subscriber one look at the store, so this must not be
much shorter than the workers' heartbeats (3 s), which are such changes with SQLite anyway.
"""

RETRY_S: Final = 0.1
"""How long after `Subscription.retry` the next wait returns."""


class Topic(Enum):
    """The kinds of events. Each event has a key, so that a subscriber can choose one session or command."""

    SESSION_CHANGED = "session_changed"
    """A session or the state of its call in the call log has changed. Key: the session id."""
    SESSION_ENDED = "session_ended"
    """A session is over. Key: its id."""
    SLOT_FREED = "slot_freed"
    """A slot became free, or a call left a queue. Key: the id of the session that had it."""
    STOP_REQUESTED = "stop_requested"
    """A session shall be stopped by its owner. Key: its id."""
    COMMAND_SENT = "command_sent"
    """A command for a session's call was sent to its owner. Key: the session id."""
    COMMAND_ACKNOWLEDGED = "command_acknowledged"
    """A command was delivered. Key: the command's id."""
    AGENTS_CHANGED = "agents_changed"
    """An agent was created, changed or deleted through the API. Key: "ORGANIZATION/NAME"."""
    KEY_REVOKED = "key_revoked"
    """An API key was revoked. Key: its id."""
    POOL_CHANGED = "pool_changed"
    """An instance that the gateway starts was listed, changed or removed, or one is needed. Key: its agent,
    "AGENT.ORG"."""
    WEBHOOK_CALL_CHANGED = "webhook_call_changed"
    """The record of a call that webhooks report has changed. Key: the record's key."""


class Transport(Protocol):
    """The way of notifications from this worker to others and back, as one kind of store has it.

    It reports what it receives with `Notifications.receive` or, if it does not know what happened or may have
    missed something, with `Notifications.receive_any`.
    """

    def listen(self, *, urgent: bool) -> None:
        """Start to report what other workers do. Called again when `urgent` changes, or a topic is new.

        `urgent`: a caller waits for the answer, so a transport that polls shall poll faster.
        """

    def pause(self) -> None:
        """Report no more: there are no subscribers."""

    def send(self, topic: Topic, key: str) -> None:
        """Notify other workers. Returns at once, raises nothing."""


class Subscription:
    """One subscriber's interest in some topics. A context manager: leaving it ends the subscription.

    For one task: two tasks that wait need two subscriptions.
    """

    def __init__(
        self, notifications: Notifications, topics: tuple[Topic, ...], key: str | None, *, urgent: bool
    ) -> None:
        """Use `Notifications.subscribe`."""
        self._notifications = notifications
        self.addresses = tuple((topic, key) for topic in topics)
        self.urgent = urgent
        self._loop = asyncio.get_running_loop()
        self._due = asyncio.Event()
        self._due.set()  # what happened before the subscription was not notified
        self._returned_at = 0.0  # loop time
        self._retry: asyncio.TimerHandle | None = None

    async def wait(self, timeout_s: float = RECHECK_S, *, min_interval_s: float = 0.0) -> bool:
        """Return True when something may have happened since the previous wait returned.

        The first wait returns at once. After `timeout_s` or RECHECK_S without a notification, return False.
        `min_interval_s`: the least time between two returns, for a subscriber whose look at the store is
        expensive; notifications in between are merged. `timeout_s` has precedence.
        """
        until = self._loop.time() + min(timeout_s, RECHECK_S)
        pause_s = min(until, self._returned_at + min_interval_s) - self._loop.time()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._due.wait()
        notified = self._due.is_set()
        self._due.clear()
        self._returned_at = self._loop.time()
        return notified

    def wake(self) -> None:
        """Let the current wait return, or the next one if no task is waiting."""
        self._due.set()

    def retry(self) -> None:
        """Let the next wait return after RETRY_S, because what was to be done could not be done now."""
        if self._retry is None or self._retry.when() <= self._loop.time():
            self._retry = self._loop.call_later(RETRY_S, self.wake)

    def close(self) -> None:
        """End the subscription. May be called twice."""
        if self._retry is not None:
            self._retry.cancel()
        self._notifications.remove(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Notifications:
    """The notifications of one worker: its subscribers, and the transport to the other workers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._subscriptions: defaultdict[tuple[Topic, str | None], set[Subscription]] = defaultdict(set)
        self._urgent = 0
        self._subscribed = 0

    def subscribe(self, *topics: Topic, key: str | None = None, urgent: bool = False) -> Subscription:
        """Subscribe to `topics`, of `key` only if given. Use the subscription in a `with` statement.

        `urgent`: for a short wait that delays a caller; a transport that polls then polls faster.
        """
        subscription = Subscription(self, topics, key, urgent=urgent)
        is_new = not self.topics >= set(topics)
        for address in subscription.addresses:
            self._subscriptions[address].add(subscription)
        self._subscribed += 1
        self._urgent += urgent
        if self._subscribed == 1 or is_new or (urgent and self._urgent == 1):
            self._transport.listen(urgent=self._urgent > 0)
        return subscription

    @property
    def topics(self) -> set[Topic]:
        """The topics that somebody in this worker is subscribed to."""
        return {topic for topic, _ in self._subscriptions}

    def publish(self, topic: Topic, key: str) -> None:
        """Notify the subscribers of all workers; call it after the store was written. Raises nothing."""
        self.receive(topic, key)
        self._transport.send(topic, key)

    def receive(self, topic: Topic, key: str) -> None:
        """Notify the subscribers of this worker. For the transport."""
        for address in ((topic, None), (topic, key)):
            for subscription in self._subscriptions.get(address, ()):
                subscription.wake()

    def receive_any_of(self, topic: Topic) -> None:
        """Notify all subscribers of a topic: anything of it may have happened. For the transport."""
        for (subscribed, _), subscriptions in self._subscriptions.items():
            if subscribed is topic:
                for subscription in subscriptions:
                    subscription.wake()

    def receive_any(self) -> None:
        """Notify all subscribers of this worker: anything may have happened. For the transport."""
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.wake()

    def remove(self, subscription: Subscription) -> None:
        """End a subscription; no effect if it has ended. For `Subscription.close`."""
        if subscription not in self._subscriptions.get(subscription.addresses[0], ()):
            return
        for address in subscription.addresses:
            self._subscriptions[address].remove(subscription)
            if not self._subscriptions[address]:
                del self._subscriptions[address]
        self._subscribed -= 1
        self._urgent -= subscription.urgent
        if not self._subscribed:
            self._transport.pause()
        elif subscription.urgent and not self._urgent:
            self._transport.listen(urgent=False)
