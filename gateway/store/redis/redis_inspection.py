# SPDX-License-Identifier: BSD-2-Clause
"""A look at a Redis server before a gateway uses it, for `patchbay check`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import RedisError

from gateway.store.interface import StoreFailed
from gateway.store.redis import redis_keys as keys
from gateway.store.redis.redis_address import RedisAddress
from gateway.store.redis.redis_connection import connect
from gateway.store.redis.redis_locator import NotPrimary, RedisLocator

LOOK_S: Final = 2.0
OLDEST: Final = (7, 0)


def inspect_server(address: RedisAddress, kind: str) -> tuple[int, list[str]]:
    """Return the number of stored values of a kind, and what is doubtful about the server, as sentences.

    Raises StoreFailed if it does not answer, or cannot hold the store. Blocks, for seconds at most.
    """
    # In a thread: a process that reads its configuration again has a loop in this one.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _inspect(address, kind)).result()


async def _inspect(address: RedisAddress, kind: str) -> tuple[int, list[str]]:
    redis: Any = connect(
        address,
        RedisLocator(address, LOOK_S),
        max_connections=1,
        timeout=LOOK_S,
        socket_timeout=LOOK_S,
        socket_connect_timeout=LOOK_S,
        retry=Retry(ConstantBackoff(0.02), 1),
        client_name="patchbay-check",
    )
    try:
        async with redis:
            info = await redis.info()
            stored = int(await redis.zcard(keys.values(kind)))
            persists = int(info.get("aof_enabled", 0)) or await _saves(redis)
    except NotPrimary as error:
        hint = "" if address.service or len(address.hosts) > 1 else ": name its primary"
        raise StoreFailed(f"the session store {address.name}: {error}{hint}") from None
    except (RedisError, OSError) as error:
        raise StoreFailed(f"the session store {address.name} does not answer: {error}") from None
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < OLDEST:
        raise StoreFailed(
            f"the session store {address.name} is Redis {version}; 7.0 is the oldest that will do"
        )
    if info.get("cluster_enabled") and address.database:
        raise StoreFailed(f"the session store {address.name}: a cluster has only the database 0")
    doubts = _doubts(info)
    if not persists:
        doubts.append("keeps nothing over a restart: history, API keys and agents made through the API go")
    return stored, doubts


def _doubts(info: dict[str, Any]) -> list[str]:
    doubts = []
    policy = info.get("maxmemory_policy", "noeviction")
    if int(info.get("maxmemory", 0)) and policy != "noeviction":
        doubts.append(
            f"evicts what it likes when memory is short (maxmemory-policy {policy}): set noeviction"
        )
    return doubts


async def _saves(redis: Any) -> bool:
    """Return whether the server writes its data to a file; True if it does not tell."""
    try:
        found = await redis.config_get("save")
        return bool(found.get("save", ""))
    except RedisError:  # a server that others run allows no CONFIG
        return True
