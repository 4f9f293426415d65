# SPDX-License-Identifier: BSD-2-Clause
"""A look at a Redis server before a gateway uses it, for `patchbay check`."""

from __future__ import annotations

from typing import Any, Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from gateway.store.interface import StoreFailed
from gateway.store.redis import redis_keys as keys
from gateway.store.redis.redis_client import name_of

LOOK_S: Final = 2.0
OLDEST: Final = (7, 0)


def inspect_server(url: str, kind: str) -> tuple[int, list[str]]:
    """Return the number of stored values of a kind, and what is doubtful about the server, as sentences.

    Raises StoreFailed if it does not answer, or cannot hold the store. Blocks, for LOOK_S at most.
    """
    name = name_of(url)
    redis: Any = Redis.from_url(
        url,
        socket_timeout=LOOK_S,
        socket_connect_timeout=LOOK_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        protocol=2,
    )
    try:
        with redis:
            info = redis.info()
            stored = int(redis.zcard(keys.values(kind)))
            persists = int(info.get("aof_enabled", 0)) or _saves(redis)
    except (RedisError, OSError) as error:
        raise StoreFailed(f"the session store {name} does not answer: {error}") from None
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < OLDEST:
        raise StoreFailed(f"the session store {name} is Redis {version}; 7.0 is the oldest that will do")
    if info.get("role") == "slave":
        raise StoreFailed(f"the session store {name} is a replica: name its primary")
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


def _saves(redis: Any) -> bool:
    """Return whether the server writes its data to a file; True if it does not tell."""
    try:
        return bool(redis.config_get("save").get("save", ""))
    except RedisError:  # a server that others run allows no CONFIG
        return True
