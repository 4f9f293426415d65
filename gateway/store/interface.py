# SPDX-License-Identifier: BSD-2-Clause
"""The store: what outlives a worker, behind one small interface. Nothing else counts sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.model.lifecycle import ACTIVE, SessionState
from gateway.model.session import (
    TELEPHONY_OPTIONS,
    CallDetails,
    SessionOptions,
    SessionRecord,
    SessionResult,
    SlotLimits,
)
from gateway.store.admission import AtCapacity, Queued


@dataclass(frozen=True, slots=True)
class StoredValue:
    """One document. `value`: JSON text. Times are Unix seconds; `expires_at` None is never."""

    kind: str
    key: str
    value: str
    created_at: float
    expires_at: float | None


class KeyValueStore(Protocol):
    """KeyValueStore of all workers. Every time is Unix seconds and comes from the caller.

    From its `expires_at` on a document is as if it were not there. Each method is one atomic step over all
    workers; it answers within seconds or raises StoreFailed (store.py). Whoever gives up waiting for it does
    not know whether it was done. Kinds and keys are any text, told apart by every character; text that is no
    Unicode (half a surrogate pair) raises ValueError.
    """

    async def put(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> None:
        """Writes a document, in place of an earlier one."""

    async def put_if_absent(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> bool:
        """Writes a document if there is none; whether it did. Of many that try, exactly one does."""

    async def get(self, kind: str, key: str, now: float) -> StoredValue | None:
        """One document."""

    async def delete(self, kind: str, key: str) -> bool:
        """Removes a document; whether there was one, be it expired."""

    async def list(self, kind: str, now: float, prefix: str = "") -> tuple[StoredValue, ...]:
        """The documents of a kind whose keys begin with `prefix`, in the order of their keys."""


__all__ = ["AtCapacity", "Counts", "NotPromised", "Queued", "Store", "StoreFailed"]


class StoreFailed(Exception):  # noqa: N818 - read as a sentence, like the entry `store_failed`
    """The store does not answer, cannot be opened, or is closed. `str()` says why, in words."""


class NotPromised(StoreFailed):
    """There is a session of this id, and no promise: it runs, was stopped, expired, or is another agent's."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many sessions there are, of all workers together.

    `active`: those that are not over, by state; every state that is not terminal is there, also with 0.
    `over`: those that are over, since the store was made, by terminal state, also with 0.
    """

    active: Mapping[SessionState, int]
    over: Mapping[SessionState, int]

    @property
    def total_active(self) -> int:
        """Those that hold a place; a promised session does not."""
        return sum(sessions for state, sessions in self.active.items() if state in ACTIVE)

    @property
    def total(self) -> int:
        return sum(self.active.values()) + sum(self.over.values())


class Store(Protocol):
    """Sessions of all workers. Every time is Unix seconds and comes from the caller.

    A method with `await` answers within seconds, or raises StoreFailed. To be used from one event loop.
    """

    @property
    def documents(self) -> KeyValueStore:
        """What workers share besides; open and closed with the store."""

    async def open(self) -> None:
        """Makes the store ready. Raises StoreFailed, and then needs no close."""

    async def close(self) -> None:
        """Writes what is owed, for a bounded time, and frees everything. May be called twice."""

    async def promise(
        self, details: CallDetails, options: SessionOptions, now: float, expires_at: float
    ) -> None:
        """Makes a session that is `created`: it holds no place, and any worker may admit it.

        From `expires_at` on it cannot be admitted, and the next `reap` cancels it. Raises StoreFailed, also
        where there is a session of this id.
        """

    async def admit(
        self,
        details: CallDetails,
        places: SlotLimits,
        now: float,
        options: SessionOptions = TELEPHONY_OPTIONS,
    ) -> str:
        """Takes a place and returns the URL of its instance: one atomic step over all workers.

        The session is then `starting`, and whoever called owes its `ended`. Raises AtCapacity, NotPromised or
        StoreFailed; then, and when this is cancelled, there is no session.

        A session that was promised under this id to this agent and organization is admitted by this; if it is
        not, the promise stands. The call's `facts` are then those given here; of `extras` what the promise
        says holds, and what it leaves None is taken from here.

        While calls wait for the agent, a place that becomes free is the first one's: everybody else finds
        none. A session whose `places` let it wait is put into the agent's line, as long as there is room in
        that, and Queued raised. It keeps its place in the line and asks again with the same id, until it is
        admitted, or whoever called says `leave_line`.
        """

    def leave_line(self, session_id: str) -> asyncio.Future[None]:
        """A call waits no longer; also one that never did. Returns at once, as `ended` does."""

    def started(self, session_id: str, at: float) -> asyncio.Future[None]:
        """The agent runs: the session is `running`.

        Returns at once. The future is done when it is written; nobody needs to await it, the write is tried
        until it succeeds, in order with `ended`.
        """

    def ended(self, session_id: str, result: SessionResult) -> asyncio.Future[None]:
        """The session is over and its place is free. The first end wins; a later one changes nothing.

        Returns at once, as `started` does. An unknown session is a log line and no more. A promised session
        may be ended so too, and is then `canceled` or `failed`.
        """

    async def adopt(self, details: CallDetails, now: float) -> str:
        """The stream of a session that was admitted without one came to this worker: who admitted it was
        dialling, here or in another worker. Returns the URL of its instance.

        The session is this worker's from then on, with the call's ids of `facts`, and whoever called owes its
        `ended`. Raises NotPromised where there is no such session of this agent, organization and carrier, it
        is over or was asked to stop, or has a stream already; StoreFailed; and then, and when this is
        cancelled, nothing has changed.
        """

    async def move(self, session_id: str, places: SlotLimits) -> str:
        """Gives a session another instance and returns its URL: one atomic step over all workers.

        Its own place does not count, so it can stay where it is. Raises AtCapacity; NotPromised where this
        worker does not carry it, it is over, or was asked to stop; StoreFailed; and then nothing has changed.
        """

    def resumed(self, session_id: str, times: int) -> asyncio.Future[None]:
        """Another agent has taken the session over, for the `times`-th time; written as `started` is."""

    def abandon(self, session_id: str, result: SessionResult) -> asyncio.Future[bool]:
        """Ends a session as `ended` does, unless its stream has come; whether it did.

        For who dialled: where a stream was adopted, its call owes the end. Written until it succeeds.
        """

    async def request_stop(self, session_id: str, at: float) -> bool:
        """Asks the worker that carries the session to end it; False if it is unknown or over.

        That worker learns it from `changed` and `stops_requested`, and ends the session. A promised session,
        which nobody carries, is canceled here. To ask again changes nothing.
        """

    async def changed(self) -> bool:
        """Whether a stop may have been requested since this was last asked; True the first time.

        That is: whether another process wrote anything, or a stop was requested here. Cheap: meant to be
        asked ten times a second, and `stops_requested` only after a True.
        """

    async def stops_requested(self) -> list[str]:
        """The ids of this worker's own sessions that are to stop and are not over, in order of arrival."""

    async def complete(
        self,
        session_id: str,
        transcript: str | None,
        reported_seconds: float | None,
        results: str | None,
        at: float,
    ) -> bool:
        """Keeps what the agent's side reports of an active session, once; `transcript`, `results`: JSON text.

        False, and nothing is changed, if the session is unknown, does not hold a place, or was completed.
        Completing does not end it.
        """

    async def session(self, session_id: str) -> SessionRecord | None:
        """The record of one session."""

    async def sessions(
        self,
        *,
        agent: str | None = None,
        organization: str | None = None,
        active: bool | None = None,
        state: SessionState | None = None,
        start_type: str | None = None,
        created_from: float | None = None,
        created_before: float | None = None,
        limit: int = 100,
        offset: int = 0,
        with_reports: bool = False,
    ) -> tuple[list[SessionRecord], int]:
        """One page of the sessions that match, newest first, and how many match in all.

        `active`: True for those that hold a place, False for those that are over; a promised session is
        neither. `created_from` and later, earlier than `created_before`: Unix seconds. Without `with_reports`
        the records have None for `transcript` and `results`, which may be long; `completed_at` is there.
        Of neither an agent nor an organization it reads the whole history.
        """

    async def counts(self) -> Counts:
        """How many sessions there are, by state."""

    async def beat(self, now: float) -> None:
        """This worker lives. To be called several times in STALE_S (owner.py)."""

    async def reap(self, now: float) -> list[SessionRecord]:
        """Ends the sessions of dead workers as `gateway_lost` and returns them, oldest first.

        A worker is dead when its process is gone, or, where its process cannot be looked up from here
        (another machine or container), when it was silent for STALE_S while this one was heard without a gap.

        What has expired goes too, and is not returned: promises become `canceled` with the reason
        `idle_timeout`, documents vanish.
        """
