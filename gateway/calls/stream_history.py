# SPDX-License-Identifier: BSD-2-Clause
"""The media streams that each carrier's call has had, over all workers.

A call whose stream brings a call token (gateway/auth/call_tokens.py) registers the stream here, in one atomic
step. Each stream is a value of its own in the store, written once and numbered from 0. So if two streams of a
call arrive at the same time, one of them has the higher number and sees the other.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.auth.call_tokens import CallClaims, digest_of
from gateway.store.interface import KeyValueStore

EXPIRY_S: Final = 86_400.0
"""Longer than any call lasts, and than any call token is valid."""

MAX_STREAMS: Final = 64
"""Of one call. More than a call may return and reconnect; stops a carrier that never gives up."""

CALL_SOCKETS: Final = "call_socket"
CALL_NONCES: Final = "call_nonce"
CALLS_LOST: Final = "call_lost"

CallKey = tuple[str, str, str]
"""The identity of a call for all workers: organisation, carrier, the carrier's call id."""

ChooseSession = Callable[[Sequence["CallStream"]], Awaitable[str | None]]
"""Given the earlier streams of a call, oldest first, return the session that the new one continues.

None if it continues none. Raises if the new stream is refused.
"""


@dataclass(frozen=True, slots=True)
class CallStream:
    """One media stream of a call, and the session that it was registered for.

    `nonce`: of the call token that it brought. `at`: the time of registration, in Unix seconds.
    """

    number: int
    session_id: str
    nonce: str
    at: float


class TooManyStreams(Exception):  # noqa: N818 - the answer "no", not a fault
    """The call has had MAX_STREAMS streams."""


class StreamHistory:
    """The streams of all calls that came with a call token. Every method raises StoreFailed."""

    def __init__(self, documents: KeyValueStore, now: Callable[[], float]) -> None:
        """`now` returns Unix seconds."""
        self._documents = documents
        self._now = now

    async def bind(self, claims: CallClaims, call_id: str) -> bool:
        """Return True if the token is valid for this call.

        A token that names no call is bound to the first call that shows it, and is valid for that one alone.
        """
        if claims.call_digest is not None:
            return claims.is_for(call_id)
        now, digest = self._now(), json.dumps(digest_of(call_id))
        if await self._documents.put_if_absent(
            CALL_NONCES, claims.nonce, digest, now=now, expires_at=now + EXPIRY_S
        ):
            return True
        bound = await self._documents.get(CALL_NONCES, claims.nonce, now)
        return bound is not None and bound.value == digest

    async def register(
        self, call: CallKey, claims: CallClaims, new_id: Callable[[], str], choose_session: ChooseSession
    ) -> tuple[CallStream, CallStream | None]:
        """Register a new stream of the call; return it, and the one before it, or None for the first.

        `choose_session` is asked if there are earlier streams, and again whenever another stream of the call
        was registered meanwhile. If it names no session, the stream's session is the token's at the token's
        first use, and a new one of `new_id` after that.

        Raises TooManyStreams, and whatever `choose_session` raises; nothing is registered then.
        """
        earlier: Sequence[CallStream] = ()
        while len(earlier) < MAX_STREAMS:
            session_id = await choose_session(earlier) if earlier else None
            if session_id is None:
                session_id = claims.session_id
                if session_id is None or any(stream.session_id == session_id for stream in earlier):
                    session_id = new_id()
            stream = CallStream(len(earlier), session_id, claims.nonce, self._now())
            if await self._put(call, stream):
                return stream, earlier[-1] if earlier else None
            earlier = await self.all(call)
        raise TooManyStreams

    async def replace_session(self, call: CallKey, stream: CallStream, session_id: str) -> CallStream:
        """Register the stream, which is registered, for another session. Return it as it is then."""
        replaced = replace(stream, session_id=session_id)
        key, expires_at = f"{_prefix(call)}{stream.number:02}", stream.at + EXPIRY_S
        await self._documents.put(CALL_SOCKETS, key, _text(replaced), now=stream.at, expires_at=expires_at)
        return replaced

    async def has_had_one(self, organization: str, carrier: str, claims: CallClaims) -> bool:
        """Return True if the call that a token is for has had a stream. False if no call has shown it yet."""
        digest = claims.call_digest
        if digest is None:
            bound = await self._documents.get(CALL_NONCES, claims.nonce, self._now())
            if bound is None:
                return False
            digest = json.loads(bound.value)
        prefix = f"{organization}/{carrier}/{digest}/"
        return bool(await self._documents.list(CALL_SOCKETS, self._now(), prefix))

    async def all(self, call: CallKey) -> Sequence[CallStream]:
        """Return the streams that the call has had, oldest first."""
        prefix = _prefix(call)
        stored = await self._documents.list(CALL_SOCKETS, self._now(), prefix)
        return [
            CallStream(int(value.key.removeprefix(prefix)), **json.loads(value.value))
            for value in stored  # in order, because the numbers in their keys have two digits each
        ]

    async def mark_lost(self, session_id: str, seconds: float) -> None:
        """Tell all workers that the session has lost its stream. This expires after `seconds`."""
        now = self._now()
        await self._documents.put(CALLS_LOST, session_id, "true", now=now, expires_at=now + seconds)

    async def unmark_lost(self, session_id: str) -> None:
        """Tell all workers that the session waits for no stream any more."""
        await self._documents.delete(CALLS_LOST, session_id)

    async def is_lost(self, session_id: str) -> bool:
        """Return True if the session has lost its stream and waits for another one."""
        return await self._documents.get(CALLS_LOST, session_id, self._now()) is not None

    async def _put(self, call: CallKey, stream: CallStream) -> bool:
        key = f"{_prefix(call)}{stream.number:02}"
        return await self._documents.put_if_absent(
            CALL_SOCKETS, key, _text(stream), now=stream.at, expires_at=stream.at + EXPIRY_S
        )


def _text(stream: CallStream) -> str:
    return json.dumps({"session_id": stream.session_id, "nonce": stream.nonce, "at": stream.at})


def _prefix(call: CallKey) -> str:
    organization, carrier, call_id = call
    return f"{organization}/{carrier}/{digest_of(call_id)}/"
