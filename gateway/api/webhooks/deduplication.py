# SPDX-License-Identifier: BSD-2-Clause
"""A call that webhooks tell of, as every worker knows it: carriers repeat webhooks, and to any worker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import structlog
from starlette.datastructures import Headers

from gateway.api.framework.services import Services
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)


def joined(headers: Headers, name: str) -> str | None:
    """A header as its proof wants it: several of one name joined by commas, None for a missing one."""
    return ",".join(headers.getlist(name)) or None


class SharedCall:
    """What is known of one call: a document of the store, which the first webhook of the call makes."""

    def __init__(self, services: Services, kind: str, *identity: str) -> None:
        """`kind`: of the document. `identity`: what names the call, the agent's service host first."""
        self._documents = services.store.key_values
        self._now = services.now
        self._kind = kind
        self._key = hashlib.sha256("\0".join(identity).encode()).hexdigest()

    async def claim(self, value: Mapping[str, Any], lease_s: float) -> bool:
        """Whether this is the first webhook of the call, which from now on is known as `value`.

        For `lease_s` seconds, lest a worker that dies keeps the call. Raises StoreFailed.
        """
        now = self._now()
        return await self._documents.put_if_absent(
            self._kind, self._key, json.dumps(value), now=now, expires_at=now + lease_s
        )

    async def get(self) -> dict[str, Any] | None:
        """What is known of the call. Raises StoreFailed."""
        kept = await self._documents.get(self._kind, self._key, self._now())
        return None if kept is None else json.loads(kept.value)

    async def keep(self, value: Mapping[str, Any], kept_s: float) -> None:
        """Makes this what is known, for `kept_s` seconds; where the store fails, that is a log line."""
        now = self._now()
        try:
            await self._documents.put(
                self._kind, self._key, json.dumps(value), now=now, expires_at=now + kept_s
            )
        except StoreFailed as error:
            log.warning("store", error=str(error))  # what was started runs, and its caller must hear of it

    async def forget(self) -> None:
        """What the first webhook began left nothing behind, so the next one is the first again."""
        try:
            await self._documents.delete(self._kind, self._key)
        except StoreFailed as error:
            log.warning("store", error=str(error))  # it is forgotten when its lease is over
