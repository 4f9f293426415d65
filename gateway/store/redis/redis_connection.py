# SPDX-License-Identifier: BSD-2-Clause
"""Connections to whichever server has the store now, made by redis-py and led by a `RedisLocator`."""

from __future__ import annotations

from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection

from gateway.store.redis.redis_address import RedisAddress
from gateway.store.redis.redis_locator import RedisLocator


class LocatedConnection(Connection):
    """A connection that asks where to, each time, and that a server which is no primary cannot have."""

    def __init__(self, *, locator: RedisLocator, **options: Any) -> None:
        super().__init__(**options)
        self._locator = locator

    async def _connect(self) -> None:
        self.host, self.port = server = await self._locator.locate()
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except Exception:  # whatever it was: the next connection asks again where to
            self._locator.failed(server)
            raise

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        try:
            await super().on_connect_check_health(check_health)
            await self._locator.confirm(self)
        except Exception:  # whatever it was: the next connection asks again where to
            self._locator.failed((self.host, self.port))
            raise


class LocatedTlsConnection(LocatedConnection, SSLConnection):
    """The same over TLS."""


def connect(address: RedisAddress, locator: RedisLocator, **options: Any) -> Any:
    """Return a redis-py client, which is not connected yet. `options`: of its pool and its connections."""
    pool = BlockingConnectionPool(
        connection_class=LocatedTlsConnection if address.is_tls else LocatedConnection,
        locator=locator,
        username=address.user or None,
        password=address.passwords.server or None,
        db=address.database,
        decode_responses=True,
        protocol=2,
        **options,
    )
    return Redis.from_pool(pool)
