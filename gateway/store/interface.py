# SPDX-License-Identifier: BSD-2-Clause
"""The store: what outlives a worker and what workers share, behind protocols. Nothing else counts sessions.

Every store passes the suite in tests/store (tests/store/conformance.py says how one joins it).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.model.lifecycle import ACTIVE, TERMINAL, SessionState
from gateway.model.session import (
    TELEPHONY_OPTIONS,
    CallDetails,
    LiveTraffic,
    PendingLimit,
    ReleasedBy,
    SessionOptions,
    SessionRecord,
    SessionResult,
    SlotLimits,
)
from gateway.store.admission import AtCapacity, Queued
from gateway.store.history import History
from gateway.store.notifications import Notifications

__all__ = [
    "ALL_SESSIONS",
    "AtCapacity",
    "Counts",
    "DurableKeyValueStore",
    "DurableStore",
    "KeyValueStore",
    "NotPending",
    "Queued",
    "SessionFilter",
    "Store",
    "StoreFailed",
    "StoredValue",
]


UNUSED_S: Final = 86_400.0
"""Seconds for which a session is kept that never had a slot: whoever has a public key can make more."""


class StoreFailed(Exception):  # noqa: N818 - named after the reason `store_failed`
    """The store does not answer, cannot be opened, or is closed. `str()` is a sentence for the operator.

    `is_reported`: a line of the log says already that it does not answer, and another will say that it does
    again; whoever asks in vain for as long need not say it, too.
    """

    is_reported = False


class NotPending(StoreFailed):
    """The session is not in the state that an operation requires, and was not changed.

    For `admit`: it is not pending (it runs, was stopped, expired), or belongs to another agent. For
    `attach_stream` and `move`: see there.
    """


@dataclass(frozen=True, slots=True)
class StoredValue:
    """One entry of the key-value store.

    `value`: JSON text. `created_at`, `expires_at`: Unix seconds; `expires_at` None means never.
    """

    kind: str
    key: str
    value: str
    created_at: float
    expires_at: float | None


class KeyValueStore(Protocol):
    """Values by kind and key, shared by all workers.

    Every time is Unix seconds and comes from the caller. From its `expires_at` on a value is treated as
    absent. Each method is one atomic step over all workers; it answers within seconds or raises StoreFailed.
    If the caller is cancelled, the step may or may not have been done. Kinds and keys are compared by code
    point; text that is not valid Unicode (a lone surrogate) raises UnicodeError.
    """

    async def put(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> None:
        """Write a value, replacing an earlier one of the same kind and key."""

    async def put_if_absent(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> bool:
        """Write a value unless there is one. Return True if it was written.

        Of several workers that write the same key at once, exactly one gets True.
        """

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
        """Write a value in place of `before`, if that is there. Return True if `value` is there then.

        Of several workers that replace the same value by different ones, exactly one gets True.
        """

    async def get(self, kind: str, key: str, now: float) -> StoredValue | None:
        """Return the value of one key, None if there is none."""

    async def delete(self, kind: str, key: str) -> bool:
        """Remove a value. Return True if there was one, even an expired one."""

    async def list(self, kind: str, now: float, prefix: str = "") -> tuple[StoredValue, ...]:
        """Return the values of a kind whose keys begin with `prefix`, ordered by key."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of sessions of all workers, by state.

    `active`: sessions that are not over; has every state that is not terminal, also with 0.
    `over`: sessions that ended since the store was created; has every terminal state, also with 0.
    """

    active: Mapping[SessionState, int]
    over: Mapping[SessionState, int]

    @property
    def total_active(self) -> int:
        """The number of sessions that occupy a slot; a pending session does not."""
        return sum(sessions for state, sessions in self.active.items() if state in ACTIVE)

    @property
    def total(self) -> int:
        """The number of all sessions, pending and over included."""
        return sum(self.active.values()) + sum(self.over.values())


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """The sessions that a list shall contain; None does not filter.

    `active`: True for sessions that occupy a slot, False for sessions that are over; a pending session is
    neither. `created_from` (inclusive), `created_before` (exclusive): Unix seconds.
    """

    agent: str | None = None
    organization: str | None = None
    active: bool | None = None
    state: SessionState | None = None
    start_type: str | None = None
    created_from: float | None = None
    created_before: float | None = None

    def states(self) -> frozenset[SessionState]:
        """Return the states that match both `state` and `active`."""
        states = frozenset(SessionState if self.state is None else {self.state})
        if self.active is not None:
            states &= ACTIVE if self.active else TERMINAL
        return states


ALL_SESSIONS: Final = SessionFilter()


class Store(Protocol):
    """The sessions of all workers. Every time is Unix seconds and comes from the caller.

    An `async` method answers within seconds or raises StoreFailed. A method that returns a future returns at
    once; its write is retried until it succeeds, in the order of the calls, so the future may be ignored.
    All methods must be called from the event loop that opened the store.
    """

    @property
    def key_values(self) -> KeyValueStore:
        """The values that workers share besides sessions; opened and closed with the store."""

    @property
    def history(self) -> History:
        """The sessions that are over, as totals and as far as they are kept, and management calls."""

    @property
    def notifications(self) -> Notifications:
        """The notifications between all workers of this store."""

    @property
    def admits(self) -> bool:
        """Whether new calls are admitted as far as the store is concerned, as the last heartbeat found it."""

    async def open(self) -> None:
        """Make the store ready. Raises StoreFailed; then it need not be closed."""

    async def close(self) -> None:
        """Write what is pending, for a bounded time, and free all resources. May be called twice."""

    async def create_pending(
        self,
        details: CallDetails,
        options: SessionOptions,
        now: float,
        expires_at: float,
        limit: PendingLimit | None = None,
    ) -> None:
        """Create a session in the state `created`: it occupies no slot, and any worker may admit it.

        From `expires_at` on it cannot be admitted, and the next `reap` cancels it. `limit`: None if no API
        key asked for it. Raises AtCapacity if the key has as many of them, with both numbers; StoreFailed,
        also if a session with this id exists.
        """

    async def admit(
        self,
        details: CallDetails,
        limits: SlotLimits,
        now: float,
        options: SessionOptions = TELEPHONY_OPTIONS,
    ) -> str:
        """Take a slot and return the URL of its instance, in one atomic step over all workers.

        The session is then `starting`, and this worker must `end` it. Raises AtCapacity, NotPending or
        StoreFailed. After an exception or a cancellation there is no session.

        A pending session with this id, agent and organization is admitted by this; if that fails, it stays
        pending. The call's details are then those given here; an option that the pending session has keeps
        its value, and one that is None is taken from here.

        While calls of the agent are queued, a slot that becomes free goes to the first of them, and every
        other caller gets AtCapacity. If `limits.queue` is set and the queue has room, the session is added to
        it and Queued is raised. It keeps its position: the caller asks again with the same id until it is
        admitted, or calls `leave_queue`.
        """

    def leave_queue(self, session_id: str) -> asyncio.Future[None]:
        """Remove a call from its agent's queue. No effect if it is not queued."""

    def mark_running(self, session_id: str, at: float) -> asyncio.Future[None]:
        """Record that the agent runs: the session becomes `running`."""

    def end(self, session_id: str, result: SessionResult) -> asyncio.Future[None]:
        """Record the end of a session and free its slot. The first end wins; a later one changes nothing.

        An unknown session is logged and otherwise ignored. A pending session may be ended, too, and becomes
        `canceled` or `failed`.
        """

    def begin_end(self, session_id: str, result: SessionResult) -> asyncio.Future[None]:
        """Record why a session ends, while its instance may still be busy with it.

        The session becomes `ending` and keeps its slot until `release`, whatever happens to this worker. The
        first end wins, as for `end`; a pending or unknown session is not changed.
        """

    def release(self, session_id: str, at: float, by: ReleasedBy | None) -> asyncio.Future[None]:
        """Record that the instance of a session that is `ending` is free, and free its slot.

        The session is over then, as `begin_end` recorded; any other session is not changed. `end` does the
        same to a session that is `ending`, with `by` None.
        """

    def correct_played(self, session_id: str, heard_ms: int) -> asyncio.Future[None]:
        """Replace how much of the agent's sound was heard, in the record of a session whose end has it."""

    async def ending(self) -> list[SessionRecord]:
        """Return this worker's sessions that are `ending`, also those of dead workers, oldest first."""

    async def attach_stream(self, details: CallDetails, now: float) -> str:
        """Take over an outbound call whose stream came to this worker. Return the URL of its instance.

        Whichever worker dialled admitted the session without a stream. From now on this worker owns the
        session and must `end` it; the record gets the call's ids of `details`. Raises NotPending if there is
        no such session of this agent, organization and carrier, or if it is over, was asked to stop, or has a
        stream; StoreFailed. After an exception or a cancellation nothing has changed.
        """

    def end_if_unattached(self, session_id: str, result: SessionResult) -> asyncio.Future[bool]:
        """End a session as `end` does unless its stream was attached. The future is True if it ended.

        For the worker that dialled: once a stream is attached, the worker that attached it ends the session.
        """

    def forget_attached(self, session_id: str) -> None:
        """Forget a session that this worker admitted without a stream, and that another one has attached.

        A store that remembers the sessions of its worker would write it again after a loss of data, or count
        it for ever. No effect on a session whose stream this worker has attached itself.
        """

    async def move(self, session_id: str, limits: SlotLimits) -> str:
        """Give a session a slot on another instance and return its URL, in one atomic step over all workers.

        The session's own slot counts as free, so it may stay where it is. Raises AtCapacity; NotPending if
        this worker does not own the session, or if it is over or was asked to stop; StoreFailed. After an
        exception nothing has changed.
        """

    def mark_resumed(self, session_id: str, times: int) -> asyncio.Future[None]:
        """Record that another agent has taken the session over, for the `times`-th time."""

    def correct_start_type(self, session_id: str, start_type: str) -> asyncio.Future[None]:
        """Replace a session's `start_type`: which instance it got is known only after its admission."""

    async def request_stop(self, session_id: str, at: float) -> bool:
        """Ask the worker that owns the session to end it. Return False if it is unknown or over.

        That worker is notified (Topic.STOP_REQUESTED), reads `stop_requests`, and ends the session. A pending
        session, which no worker owns, is canceled here. A second request changes nothing.
        """

    async def stop_requests(self) -> list[str]:
        """Return the ids of this worker's sessions that shall stop and do not, in order of arrival.

        Those that are `ending` or over are left out.
        """

    async def complete(
        self,
        session_id: str,
        transcript: str | None,
        reported_seconds: float | None,
        results: str | None,
        at: float,
    ) -> bool:
        """Store what the agent reports about an active session, once. Return True if it was stored.

        `transcript`, `results`: JSON text. Nothing changes, and False is returned, if the session is unknown,
        occupies no slot, or has a report. This does not end the session.
        """

    async def session(self, session_id: str) -> SessionRecord | None:
        """Return the record of one session, None if it is unknown."""

    async def sessions(
        self,
        matching: SessionFilter = ALL_SESSIONS,
        *,
        limit: int = 100,
        offset: int = 0,
        with_reports: bool = False,
    ) -> tuple[list[SessionRecord], int]:
        """Return one page of the sessions that match, newest first, and the number of all that match.

        Without `with_reports` the records have None for `transcript` and `results`, which may be long;
        `completed_at` is set. Without an agent or an organization the whole history is read. Raises
        ValueError if `limit` or `offset` is negative; StoreFailed.
        """

    async def counts(self) -> Counts:
        """Return the number of sessions by state."""

    async def heartbeat(self, now: float, passed: Sequence[LiveTraffic] = ()) -> None:
        """Record that this worker is alive. To be called several times in STALE_S (worker_id.py).

        `passed`: what its running sessions have passed so far, written in the same step. A session that does
        not run, or is another worker's, is not changed.
        """

    async def reap(self, now: float) -> list[SessionRecord]:
        """End the sessions of dead workers as `gateway_lost` and return them, oldest first.

        Those without a media socket become `ending`, because their agents may run on, and belong to this
        worker, which must `release` them; so do those that were `ending` already, which are not returned.

        A worker is dead if its process is gone, or, where its process cannot be looked up from here (another
        machine or container), if it was silent for STALE_S while this worker's own heartbeats had no gap.

        Expired sessions and values are removed, too, and not returned: pending sessions become `canceled`
        with the reason `idle_timeout`. One that was never admitted is forgotten UNUSED_S after its time.
        """


class DurableKeyValueStore(KeyValueStore, Protocol):
    """A key-value store that can accept a write while its server or file is out of reach."""

    def put_if_absent_later(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None
    ) -> asyncio.Future[bool]:
        """Do what `put_if_absent` does, retried until it succeeds. Returns at once."""


class DurableStore(Store, Protocol):
    """A store that accepts decisions made without it: what FailoverStore needs of the store it wraps."""

    @property
    def key_values(self) -> DurableKeyValueStore: ...

    @property
    def failing(self) -> bool:
        """Whether the last write failed, and none has succeeded since."""

    @property
    def pending_writes(self) -> int:
        """The number of writes that are retried until they succeed and have not yet."""

    def record_admission(
        self, details: CallDetails, limits: SlotLimits, now: float, options: SessionOptions, instance: str
    ) -> asyncio.Future[None]:
        """Record an admission that was decided without the store; `instance`: where. Returns at once.

        Written in order with `end`, as every method that returns a future. An existing session is not
        changed.
        """
