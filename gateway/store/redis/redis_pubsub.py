# SPDX-License-Identifier: BSD-2-Clause
"""Notifications between workers by Redis' PUBLISH: a hint that is lost while a connection is (at most once).

So every confirmation of a subscription, the first and those after a new connection, wakes the subscribers:
they read the store again. Each topic has a channel, and a worker hears only those that somebody in it waits
for: most of what each call publishes is heard by nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.store.notifications import Notifications, Topic
from gateway.store.redis import redis_keys as keys
from gateway.store.redis.redis_client import RedisClient
from gateway.store.redis.redis_connection import connect

log = structlog.get_logger(__name__)

CONNECT_S: Final = 2.0
CHECK_S: Final = 5.0
"""How often a connection without messages is asked for a sign of life."""

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0


class RedisPubSub:
    """A notifications `Transport` on channels that all workers share."""

    def __init__(self, client: RedisClient, worker_id: str) -> None:
        self.notifications = Notifications(self)
        self._client = client
        self._worker_id = worker_id
        # Channels are the same in all databases of a server.
        self._channel = f"{keys.EVENTS}:{client.address.database}"
        self._task: asyncio.Task[None] | None = None
        self._pubsub: Any = None
        self._received: set[Topic] = set()
        self._adjusting = asyncio.Lock()
        self._adjustment: asyncio.Task[None] | None = None

    def listen(self, *, urgent: bool) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._listen())
        elif not self._received >= self.notifications.topics:
            self._adjustment = asyncio.create_task(self._adjust())

    def pause(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = self._pubsub = None

    def send(self, topic: Topic, key: str) -> None:
        # In order with the writes: who is told reads what was written before.
        self._client.publish(self._channel_of(topic), f"{self._worker_id} {topic.value} {key}")

    def _channel_of(self, topic: Topic) -> str:
        return f"{self._channel}:{topic.value}"

    async def _adjust(self) -> None:
        """Hear the topics that have subscribers, and no others."""
        async with self._adjusting:
            pubsub, topics = self._pubsub, self.notifications.topics
            if pubsub is None:
                return
            new, over = topics - self._received, self._received - topics
            self._received = topics
            # A connection that is lost is made again by the reader, with what is heard then.
            with contextlib.suppress(RedisError, OSError):
                if new:
                    await pubsub.subscribe(*map(self._channel_of, new))
                if over:
                    await pubsub.unsubscribe(*map(self._channel_of, over))

    async def _listen(self) -> None:
        pause_s = FIRST_PAUSE_S
        in_trouble = False
        while self._task is asyncio.current_task():
            try:
                async with contextlib.AsyncExitStack() as stack:
                    redis = await stack.enter_async_context(self._connect())
                    pubsub = await stack.enter_async_context(redis.pubsub())
                    await pubsub.subscribe(self._channel)
                    server = self._client.locator.current
                    is_pinged = False
                    self._pubsub, self._received = pubsub, set()
                    await self._adjust()
                    # redis-py 8.1 sends within asyncio.wait_for, which before Python 3.12 may lose a cancel.
                    while self._task is asyncio.current_task():
                        message = await pubsub.get_message(timeout=CHECK_S)
                        if message is None:
                            if is_pinged:
                                raise RedisError("nothing heard")
                            if self._client.locator.current not in (server, None):
                                break  # what is published is published elsewhere
                            await pubsub.ping()
                            is_pinged = True
                            continue
                        is_pinged = False
                        if message["type"] == "subscribe":
                            pause_s, in_trouble = FIRST_PAUSE_S, False
                        self._take(message)
                        if not self._received <= self.notifications.topics:
                            await self._adjust()
            except (RedisError, OSError) as error:
                if not in_trouble and not self._client.is_silent:
                    log.warning("store", error=f"notifications of {self._client.name}: {error}")
                in_trouble = True
            if self._task is asyncio.current_task():
                self._pubsub = None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _connect(self) -> Any:
        return connect(
            self._client.address,
            self._client.locator,
            max_connections=2,
            timeout=CONNECT_S,
            socket_timeout=CHECK_S * 2,
            socket_connect_timeout=CONNECT_S,
            retry=Retry(NoBackoff(), 0),
            client_name="patchbay-notifications",
        )

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            for topic in Topic:
                if message["channel"] == self._channel_of(topic):
                    self.notifications.receive_any_of(topic)  # what came before was not heard
        elif message["type"] == "message":
            sender, _, rest = message["data"].partition(" ")
            name, _, key = rest.partition(" ")
            if sender == self._worker_id:
                return
            try:
                self.notifications.receive(Topic(name), key)
            except ValueError:  # of another release
                self.notifications.receive_any()
