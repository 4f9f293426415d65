# SPDX-License-Identifier: BSD-2-Clause
"""Which media sockets a carrier's call has had, over all workers.

A call whose socket brings a call token (call_tokens.py) takes the call's next socket here, in one atomic
step: each is a document of its own, written once, numbered from 0. So of two that come at the same time one
is later, and knows the other.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.auth.call_tokens import CallClaims, digest_of
from gateway.store.interface import KeyValueStore

KEPT_S: Final = 86_400.0
"""Longer than any call, and than any token for one is good."""

MOST_SOCKETS: Final = 64
"""Of one call: more than it may come back and reconnect, and a guard against one that never stops to."""

CALL_SOCKETS: Final = "call_socket"
CALL_NONCES: Final = "call_nonce"
CALLS_LOST: Final = "call_lost"


@dataclass(frozen=True, slots=True)
class CallStream:
    """One socket of a call, and the session that it was taken for. `at`: Unix seconds."""

    number: int
    session_id: str
    nonce: str
    at: float


class TooManyStreams(Exception):  # noqa: N818 - the answer "no", not a fault
    """The call has had as many sockets as a call may."""


class StreamHistory:
    """The sockets of all calls that came with a call token. Every method may raise StoreFailed."""

    def __init__(self, documents: KeyValueStore, now: Callable[[], float]) -> None:
        """`now`: Unix seconds."""
        self._documents = documents
        self._now = now

    async def bind(self, claims: CallClaims, call_id: str) -> bool:
        """Whether the token is this call's; one that names no call is the first's that shows it."""
        if claims.call_digest is not None:
            return claims.is_for(call_id)
        now, digest = self._now(), json.dumps(digest_of(call_id))
        if await self._documents.put_if_absent(
            CALL_NONCES, claims.nonce, digest, now=now, expires_at=now + KEPT_S
        ):
            return True
        bound = await self._documents.get(CALL_NONCES, claims.nonce, now)
        return bound is not None and bound.value == digest

    async def take(
        self,
        call: tuple[str, str, str],
        claims: CallClaims,
        new_id: Callable[[], str],
        judge: Callable[[Sequence[CallStream]], Awaitable[str | None]],
    ) -> tuple[CallStream, CallStream | None]:
        """Takes the next socket of a call: that, and the one before it, None where it is the first.

        `call`: organization, carrier, call id. `judge`: is asked about those before, and raises to refuse;
        it may give the session that goes on with the new one. Otherwise that is the token's at its first use,
        else one of `new_id`. Raises TooManyStreams.
        """
        known: Sequence[CallStream] = ()
        while len(known) < MOST_SOCKETS:
            session_id = await judge(known) if known else None
            if session_id is None:
                session_id = claims.session_id
                if session_id is None or any(one.session_id == session_id for one in known):
                    session_id = new_id()
            if await self._put(call, mine := CallStream(len(known), session_id, claims.nonce, self._now())):
                return mine, known[-1] if known else None
            known = await self.all(call)
        raise TooManyStreams

    async def all(self, call: tuple[str, str, str]) -> Sequence[CallStream]:
        """The sockets that a call (organization, carrier, call id) has had, the first first."""
        prefix = _prefix(call)
        found = await self._documents.list(CALL_SOCKETS, self._now(), prefix)
        return [
            CallStream(int(one.key.removeprefix(prefix)), **json.loads(one.value))
            for one in found  # their numbers have two digits each, so they are in order
        ]

    async def note_lost(self, session_id: str, seconds: float) -> None:
        """The session's socket is lost, and another one is waited for; not for longer than `seconds`."""
        now = self._now()
        await self._documents.put(CALLS_LOST, session_id, "true", now=now, expires_at=now + seconds)

    async def forget_lost(self, session_id: str) -> None:
        """It is waited for no more."""
        await self._documents.delete(CALLS_LOST, session_id)

    async def is_lost(self, session_id: str) -> bool:
        """Whether that is so."""
        return await self._documents.get(CALLS_LOST, session_id, self._now()) is not None

    async def _put(self, call: tuple[str, str, str], socket: CallStream) -> bool:
        key = f"{_prefix(call)}{socket.number:02}"
        value = {"session_id": socket.session_id, "nonce": socket.nonce, "at": socket.at}
        return await self._documents.put_if_absent(
            CALL_SOCKETS, key, json.dumps(value), now=socket.at, expires_at=socket.at + KEPT_S
        )


def _prefix(call: tuple[str, str, str]) -> str:
    organization, carrier, call_id = call
    return f"{organization}/{carrier}/{digest_of(call_id)}/"
