# SPDX-License-Identifier: BSD-2-Clause
"""The key-value store on Redis."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from typing import Final

from gateway.store.interface import StoredValue
from gateway.store.redis import redis_end_scripts as end_scripts
from gateway.store.redis import redis_keys as keys
from gateway.store.redis.redis_client import RedisClient, Script

REPEATED_S: Final = 10
"""Seconds for which the server remembers a removal, whose answer may be lost: longer than it is repeated."""

PURGE_LIMIT: Final = 500
"""The most values removed at once."""


def script(text: str) -> Script:
    """Return a script with the hash that the server knows it by."""
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def clean(text: str | None) -> str | None:
    """Return the text with "?" for lone surrogates: JSON from a carrier may have them, UTF-8 cannot."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()


_PUT: Final = script(end_scripts.PUT)
_REPLACE: Final = script(end_scripts.REPLACE)
_REMOVE: Final = script(end_scripts.REMOVE)


class RedisKeyValueStore:
    """A `DurableKeyValueStore` (gateway/store/interface.py documents the methods)."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    async def put(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> None:
        await self._put(kind, _put_arguments(key, value, now, expires_at, ""))

    async def put_if_absent(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> bool:
        return await self._put(kind, _put_arguments(key, value, now, expires_at, "absent"))

    def put_if_absent_later(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None
    ) -> asyncio.Future[bool]:
        arguments = _put_arguments(key, value, now, expires_at, "absent")

        async def write() -> bool:
            return bool(await self._client.script_late(_PUT, _value_keys(kind, key), arguments))

        return self._client.write_later(write)

    async def replace(
        self,
        kind: str,
        key: str,
        before: str,
        value: str,
        *,
        now: float,
        expires_at: float | None = None,
    ) -> bool:
        arguments = (*_put_arguments(key, value, now, expires_at, ""), clean(before) or "")
        return bool(await self._client.script(_REPLACE, _value_keys(kind, key), arguments))

    async def get(self, kind: str, key: str, now: float) -> StoredValue | None:
        name = _checked(keys.value(kind, key))
        found = await self._client.run("hmget", name, "value", "created_at", "expires_at")
        return _stored(kind, key, found, now)

    async def delete(self, kind: str, key: str) -> bool:
        names = (*_value_keys(kind, key), keys.removal(uuid.uuid4().hex))
        return bool(await self._client.script(_REMOVE, names, (key, "", REPEATED_S)))

    async def list(self, kind: str, now: float, prefix: str = "") -> tuple[StoredValue, ...]:
        first = f"[{prefix}" if prefix else "-"
        last = b"[" + prefix.encode() + b"\xff" if prefix else "+"
        names = await self._client.run("zrangebylex", keys.values(kind), first, last)
        columns = ("value", "created_at", "expires_at")
        found = await self._client.run_all([("HMGET", keys.value(kind, key), *columns) for key in names])
        listed = (_stored(kind, key, each, now) for key, each in zip(names, found, strict=True))
        return tuple(stored for stored in listed if stored is not None)

    async def purge(self, now: float) -> None:
        """Remove expired values, at most PURGE_LIMIT, the longest expired first. Raises StoreFailed."""
        names = await self._client.run(
            "zrangebyscore", keys.VALUE_EXPIRY, "-inf", now, start=0, num=PURGE_LIMIT
        )
        for name in names:
            kind, _, key = name.removeprefix(keys.VALUE).partition("\0")
            names = (*_value_keys(kind, key), keys.removal(""))
            await self._client.script(_REMOVE, names, (key, repr(now), REPEATED_S))

    async def _put(self, kind: str, arguments: tuple[str, ...]) -> bool:
        key = arguments[0]
        return bool(await self._client.script(_PUT, _value_keys(kind, key), arguments))


def _put_arguments(
    key: str, value: str, now: float, expires_at: float | None, absent: str
) -> tuple[str, ...]:
    expiry = "" if expires_at is None else repr(float(expires_at))
    return key, clean(value) or "", repr(float(now)), expiry, uuid.uuid4().hex, absent


def _value_keys(kind: str, key: str) -> tuple[str, str, str]:
    return _checked(keys.value(kind, key)), keys.values(kind), keys.VALUE_EXPIRY


def _checked(name: str) -> str:
    """Return the name. Raises UnicodeError if it is not valid Unicode."""
    name.encode()
    return name


def _stored(kind: str, key: str, found: list[str | None], now: float) -> StoredValue | None:
    value, created_at, expiry = found
    if value is None or created_at is None:
        return None
    expires_at = float(expiry) if expiry else None
    if expires_at is not None and expires_at <= now:
        return None
    return StoredValue(kind, key, value, float(created_at), expires_at)
