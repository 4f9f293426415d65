# SPDX-License-Identifier: BSD-2-Clause
"""The store in one SQLite file, shared by all workers of a machine."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from gateway.model.lifecycle import SessionState
from gateway.model.session import (
    TELEPHONY_OPTIONS,
    CallDetails,
    SessionOptions,
    SessionRecord,
    SessionResult,
    SlotLimits,
)
from gateway.store.interface import Counts
from gateway.store.sqlite import session_lists, session_steps, sqlite_line, worker_rows
from gateway.store.sqlite.key_values import SqliteKeyValueStore
from gateway.store.sqlite.schema import connect, text
from gateway.store.sqlite.sqlite_stops import StopRequests
from gateway.store.sqlite.writer import Kind, Writer
from gateway.store.worker_id import WorkerId

log = structlog.get_logger(__name__)

CLOSE_S: Final = 5.0
"""How long a close tries to write what is owed."""

BUSY_S: Final = 2.0
"""How long one commit waits for another process's."""


class SqliteStore:
    """A `Store` (store.py, where the methods are documented) in the file `path`, for the worker `owner`."""

    def __init__(
        self,
        path: Path,
        owner: WorkerId,
        *,
        busy_s: float = BUSY_S,
        close_s: float = CLOSE_S,
        calls_per_organization: int = 0,
    ) -> None:
        """`busy_s`: how long one commit waits for another process's. `close_s`: how long a close tries.

        `calls_per_organization`: sessions that all its agents may have at once; 0 sets no limit.
        """
        self._calls_per_organization = calls_per_organization
        self._owner = owner
        self._writer = Writer(str(path), partial(connect, path, busy_s), close_s)
        self._documents = SqliteKeyValueStore(self._writer)
        self._stops = StopRequests(owner.id)

    @property
    def documents(self) -> SqliteKeyValueStore:
        return self._documents

    async def open(self) -> None:
        await self._writer.open()

    async def close(self) -> None:
        self._writer.submit(Kind.ASK, partial(worker_rows.leave, self._owner))
        await self._writer.close()

    async def promise(
        self, details: CallDetails, options: SessionOptions, now: float, expires_at: float
    ) -> None:
        await self._writer.submit(Kind.ASK, partial(session_steps.promise, details, options, now, expires_at))

    async def admit(
        self,
        details: CallDetails,
        places: SlotLimits,
        now: float,
        options: SessionOptions = TELEPHONY_OPTIONS,
    ) -> str:
        admission = session_steps.Admission(
            self._owner, details, places, now, options, most=self._calls_per_organization
        )
        try:
            return await self._writer.submit(Kind.ASK, admission.admit)
        except asyncio.CancelledError:
            # The caller gave up while the thread may have taken the place: nobody else would give it back.
            self._writer.submit(Kind.OWE, admission.withdraw)
            raise

    def admitted(
        self, details: CallDetails, places: SlotLimits, now: float, options: SessionOptions, instance: str
    ) -> asyncio.Future[None]:
        """What `admit` does, decided already; returns at once, as `started` does."""
        admission = session_steps.Admission(self._owner, details, places, now, options)
        return self._writer.submit(Kind.OWE, partial(admission.write_late, instance))

    def leave_line(self, session_id: str) -> asyncio.Future[None]:
        return self._writer.submit(Kind.OWE, partial(sqlite_line.leave, session_id))

    async def adopt(self, details: CallDetails, now: float) -> str:
        adoption = session_steps.Adoption(self._owner, details, now)
        try:
            return await self._writer.submit(Kind.ASK, adoption.adopt)
        except asyncio.CancelledError:
            self._writer.submit(Kind.OWE, adoption.withdraw)  # as in `admit`
            raise

    async def move(self, session_id: str, places: SlotLimits) -> str:
        move = partial(session_steps.move, self._owner, session_id, places)
        return await self._writer.submit(Kind.ASK, move)

    def resumed(self, session_id: str, times: int) -> asyncio.Future[None]:
        return self._writer.submit(Kind.NOTE, partial(session_steps.resumed, session_id, times))

    def abandon(self, session_id: str, result: SessionResult) -> asyncio.Future[bool]:
        return self._writer.submit(Kind.OWE, partial(session_steps.abandoned, session_id, result))

    def started(self, session_id: str, at: float) -> asyncio.Future[None]:
        return self._writer.submit(Kind.NOTE, partial(session_steps.started, session_id, at))

    def ended(self, session_id: str, result: SessionResult) -> asyncio.Future[None]:
        return self._writer.submit(Kind.OWE, partial(session_steps.ended, session_id, result))

    async def request_stop(self, session_id: str, at: float) -> bool:
        return await self._writer.submit(Kind.ASK, partial(self._stops.request, session_id, at))

    async def changed(self) -> bool:
        return await self._writer.submit(Kind.READ, self._stops.changed)

    async def stops_requested(self) -> list[str]:
        return await self._writer.submit(Kind.READ, self._stops.requested)

    async def complete(
        self,
        session_id: str,
        transcript: str | None,
        reported_seconds: float | None,
        results: str | None,
        at: float,
    ) -> bool:
        report = (text(transcript), reported_seconds, text(results))
        return await self._writer.submit(Kind.ASK, partial(session_steps.complete, session_id, report, at))

    async def session(self, session_id: str) -> SessionRecord | None:
        return await self._writer.submit(Kind.READ, partial(session_lists.session, session_id))

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
        if limit < 0 or offset < 0:  # SQLite takes a negative limit for none
            raise ValueError("limit and offset must not be negative")
        wanted = session_lists.SessionFilter(
            agent, organization, active, state, start_type, created_from, created_before
        )
        return await self._writer.submit(
            Kind.READ, partial(session_lists.sessions, wanted, limit, offset, with_reports)
        )

    async def counts(self) -> Counts:
        return await self._writer.submit(Kind.READ, session_lists.counts)

    async def beat(self, now: float) -> None:
        await self._writer.submit(Kind.ASK, partial(worker_rows.beat, self._owner, now))

    async def reap(self, now: float) -> list[SessionRecord]:
        lost = await self._writer.submit(Kind.ASK, partial(worker_rows.reap, self._owner, now))
        for record in lost:
            log.warning("session_lost", session=record.session_id, worker=record.owner, detail=record.detail)
        return lost
