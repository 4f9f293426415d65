# SPDX-License-Identifier: BSD-2-Clause
"""Incoming calls that have their slot already, and whose media stream is awaited.

A carrier asks for a call's document seconds before it opens the stream. With `admit_at = "document"` that
request, if the carrier's account has signed it, takes the slot at once, and its instance is made ready
meanwhile (docs/documents.md).

    the stream comes, to any worker   → it is attached to the session, whose end is its own from then on
    no stream in STREAM_S, the carrier reports the end, a stop, the worker drains or ends
                                      → the slot is given back: `canceled`, at the level info

A stream that comes after that takes a slot as if there had been none. The session's id follows from the
carrier's id of the call: whichever worker gets the repeated request, there is one session and one slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import structlog

from gateway.agents.instance_health import InstanceHealth
from gateway.auth.call_tokens import digest_of
from gateway.auth.media_tokens import MediaTokens
from gateway.calls.capacity import Capacity
from gateway.calls.command_bus import CallCommand
from gateway.calls.session_end import SessionEnd, log_end, save_if_unattached
from gateway.config import AgentSettings
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, SessionRecord
from gateway.store.interface import Store, StoreFailed

log = structlog.get_logger(__name__)

STREAM_S: Final = 15.0
"""Seconds from the request for the document until the stream must have come."""

SLOT_S: Final = 1.0
"""Seconds that a document waits for a slot, where an instance is to be started that has one."""

DRAIN_S: Final = 3.0
"""Seconds that a stream still has when the worker begins to drain: another one may get it."""

AWAITED: Final = "awaited_stream"
"""The store's kind of calls that await their stream: by organisation and session, the digest of the call."""

ENTRY_SLACK_S: Final = 5.0
"""Seconds for which such an entry outlives STREAM_S: what nobody has deleted."""


class SlotGivenBack(Exception):  # noqa: N818 - an answer, not a fault
    """The session that the stream should be attached to has ended without it."""


@dataclass(frozen=True, slots=True)
class AwaitedCall:
    """A call whose document is requested. `call_id`: the carrier's, and never missing."""

    carrier: str
    call_id: str
    from_number: str | None
    to_number: str | None


@dataclass(frozen=True, slots=True)
class _Awaited:
    """One session of this worker that awaits its stream.

    `over`: done when nothing is awaited any more; the result is the end, None if the stream was attached.
    """

    details: CallDetails
    instance: str
    began_at: float
    over: asyncio.Future[CallEnded | None]

    def end(self, end: CallEnded | None) -> None:
        if not self.over.done():
            self.over.set_result(end)


class AwaitedStreams:
    """The sessions of one worker whose document took their slot. It belongs to one event loop."""

    def __init__(
        self,
        store: Store,
        health: InstanceHealth,
        capacity: Capacity,
        tokens: MediaTokens,
        now: Callable[[], float],
        *,
        stream_s: float = STREAM_S,
    ) -> None:
        """`tokens`: derives the ids of sessions. `now`: Unix seconds."""
        self._store = store
        self._health = health
        self._capacity = capacity
        self._tokens = tokens
        self._now = now
        self._stream_s = stream_s
        self._awaited: dict[str, _Awaited] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """The number of sessions of this worker that await their stream."""
        return len(self._awaited)

    def session_id(self, agent: AgentSettings, call: AwaitedCall) -> str:
        """Return the id of the session that the call's document takes a slot for: always the same."""
        return self._tokens.derive_session_id(
            "awaited stream", agent.service_host, agent.organization, call.carrier, call.call_id
        )

    async def take(self, agent: AgentSettings, call: AwaitedCall, most: int) -> bool:
        """Take the slot of a call whose document is requested. Return True if it has it, also from before.

        False: the stream has to take its slot itself, because the organisation has as many such calls as it
        may (`most`), the call has had its session, the store does not answer, or nobody starts an instance
        in time. Raises CallEnded(at_capacity).
        """
        session_id = self.session_id(agent, call)
        known = self._awaited.get(session_id)
        if known is not None and not known.over.done():
            return True
        try:
            return await self._take(agent, call, session_id, most)
        except StoreFailed:
            return False

    async def _take(self, agent: AgentSettings, call: AwaitedCall, session_id: str, most: int) -> bool:
        """Do the same as `take`, for a call that awaits nothing in this worker. Raises StoreFailed too."""
        if not await self._note(agent.organization, session_id, call, most):
            return False
        details, refused = _details(agent, session_id, call), None
        try:
            async with asyncio.timeout(SLOT_S):
                instance = await self._capacity.acquire(agent, details)
        except TimeoutError:
            pass
        except CallEnded as end:
            refused = end
        else:
            future: asyncio.Future[CallEnded | None] = asyncio.get_running_loop().create_future()
            awaited = self._awaited[session_id] = _Awaited(details, instance, self._now(), future)
            self._run(self._watch(awaited, is_probed=agent.health_interval > 0))
            return True
        record = await self._store.session(session_id)
        if awaits_stream(record):  # a repeated request, or one at another worker at the same time
            return True
        self._forget(agent.organization, session_id)
        if refused is not None and refused.reason is Reasons.at_capacity and record is None:
            raise refused
        return False

    async def attach(self, details: CallDetails) -> str:
        """Take over the slot of a call whose stream came to this worker. Return its instance's URL.

        Raises SlotGivenBack if the slot is not the call's any more; CallEnded: unauthorized if the session
        was stopped on request, store_failed.
        """
        try:
            instance = await self._capacity.attach_stream(details)
        except CallEnded as refused:
            if refused.reason is Reasons.unauthorized and await self._was_given_back(details.session_id):
                raise SlotGivenBack from None
            raise
        # Nothing may be waited for between the attachment and its return: the caller must end the session.
        awaited = self._awaited.get(details.session_id)
        if awaited is not None:
            awaited.end(None)
        else:
            self._forget(details.organization, details.session_id)
        return instance

    async def find(self, organization: str, carrier: str, call_id: str) -> str | None:
        """Return the session of the organisation that awaits a stream of this call. Raises StoreFailed."""
        prefix, sought = f"{organization}/", _entry(carrier, call_id)
        stored = await self._store.key_values.list(AWAITED, self._now(), prefix)
        return next((value.key.removeprefix(prefix) for value in stored if value.value == sought), None)

    def stop(self, session_id: str, end: CallEnded) -> bool:
        """Give a slot back with this end. Return False if the session awaits no stream in this worker."""
        awaited = self._awaited.get(session_id)
        if awaited is not None:
            awaited.end(end)
        return awaited is not None

    def handle(self, session_id: str, command: CallCommand) -> bool:
        """Follow CARRIER_ENDED. Return False for a session that awaits no stream here, or another command."""
        end = CallEnded(Reasons.call_canceled, "the carrier says that the call is over, and no stream came")
        return command is CallCommand.CARRIER_ENDED and self.stop(session_id, end)

    def drain(self) -> None:
        """Await each stream for DRAIN_S more at the longest."""
        asyncio.get_running_loop().call_later(DRAIN_S, self._give_all_back)

    def _give_all_back(self) -> None:
        for awaited in self._awaited.values():
            awaited.end(CallEnded(Reasons.stopped, "the gateway stops, and no stream came"))

    async def end_all(self) -> None:
        """Give every slot back, and return when all ends have been passed to the store."""
        while self._tasks:
            self._give_all_back()
            await asyncio.wait(self._tasks)

    async def _note(self, organization: str, session_id: str, call: AwaitedCall, most: int) -> bool:
        """Note that the call will await its stream. Return False if its organisation has too many of those.

        It is counted after it was noted: of several that come at once none goes beyond the limit.
        """
        values, now, prefix = self._store.key_values, self._now(), f"{organization}/"
        if not most:
            return False
        expires_at = now + self._stream_s + ENTRY_SLACK_S
        key, value = f"{prefix}{session_id}", _entry(call.carrier, call.call_id)
        is_new = await values.put_if_absent(AWAITED, key, value, now=now, expires_at=expires_at)
        if is_new and len(await values.list(AWAITED, now, prefix)) > most:
            await values.delete(AWAITED, key)
            log.warning("too many calls await a stream", organization=organization, limit=most)
            return False
        return True

    async def _watch(self, awaited: _Awaited, *, is_probed: bool) -> None:
        """Make the instance ready, and end the session unless its stream is attached in time."""
        ready = asyncio.create_task(self._make_ready(awaited.instance, is_probed=is_probed))
        await asyncio.wait([awaited.over], timeout=self._stream_s)
        ready.cancel()
        await asyncio.wait([ready])
        awaited.end(CallEnded(Reasons.call_canceled, f"no stream came within {self._stream_s:g} s"))
        end, details = awaited.over.result(), awaited.details
        try:
            if end is not None:
                await self._give_back(awaited, end)
        finally:
            del self._awaited[details.session_id]
        self._forget(details.organization, details.session_id)

    async def _make_ready(self, instance: str, *, is_probed: bool) -> None:
        """Ask the instance whether it is ready, so that it wakes up; until it is, if that is asked anyway.

        One that the gateway starts (gateway/pool) is asked by whoever starts it.
        """
        if self._capacity.cold_starts.is_starting(instance):
            return
        await self._health.wake(instance)
        if is_probed:
            with contextlib.suppress(CallEnded):  # overloaded: the call itself finds out
                await self._health.wait_until_answering(instance)

    async def _give_back(self, awaited: _Awaited, end: CallEnded) -> None:
        details, now = awaited.details, self._now()
        if await save_if_unattached(self._store, SessionEnd(details.session_id, end, now, ran=False)):
            line = log.bind(
                session=details.session_id,
                agent=details.agent,
                organization=details.organization,
                carrier=details.carrier,
                call_id=details.call_id,
                instance=awaited.instance,
            )
            log_end(line, "slot given back", end, seconds=now - awaited.began_at, ran=False)
        else:
            self._store.forget_attached(details.session_id)

    async def _was_given_back(self, session_id: str) -> bool:
        try:
            record = await self._store.session(session_id)
        except StoreFailed as error:
            raise CallEnded(Reasons.store_failed, str(error)) from None
        return record is None or (
            record.state in TERMINAL and record.stream_id is None and record.stop_requested_at is None
        )

    def _forget(self, organization: str, session_id: str) -> None:
        """Delete the entry of a session that awaits no stream any more. Returns at once."""

        async def delete() -> None:
            with contextlib.suppress(StoreFailed):  # it expires
                await self._store.key_values.delete(AWAITED, f"{organization}/{session_id}")

        self._run(delete())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def awaits_stream(record: SessionRecord | None) -> bool:
    """Return True if a session is an incoming call's that has its slot, and no stream yet.

    A call out without a stream has no call id in its record.
    """
    return (
        record is not None
        and record.state is SessionState.STARTING
        and record.stream_id is None
        and record.call_id is not None
        and record.stop_requested_at is None
    )


def _details(agent: AgentSettings, session_id: str, call: AwaitedCall) -> CallDetails:
    return CallDetails(
        session_id=session_id,
        agent=agent.service_host,
        organization=agent.organization,
        region=agent.region,
        carrier=call.carrier,
        call_id=call.call_id,
        stream_id=None,
        from_number=call.from_number,
        to_number=call.to_number,
    )


def _entry(carrier: str, call_id: str) -> str:
    return json.dumps(f"{carrier}/{digest_of(call_id)}")
