# SPDX-License-Identifier: BSD-2-Clause
"""The store in one SQLite file, shared by all workers of a machine."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

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
from gateway.store.interface import ALL_SESSIONS, Counts, SessionFilter, StoreFailed
from gateway.store.notifications import Notifications, Topic
from gateway.store.sqlite import session_ends, session_reads, session_writes, worker_rows
from gateway.store.sqlite.change_poll import ChangePoll, data_version
from gateway.store.sqlite.file_guard import FileGuard
from gateway.store.sqlite.history_rows import SqliteHistory
from gateway.store.sqlite.key_values import SqliteKeyValueStore
from gateway.store.sqlite.schema import connect, text
from gateway.store.sqlite.writer import Kind, Writer
from gateway.store.worker_id import WorkerId

log = structlog.get_logger(__name__)

CLOSE_S: Final = 5.0
"""How long a close tries to write pending writes."""

BUSY_S: Final = 2.0
"""How long one commit waits for another process's."""

T = TypeVar("T")


class SqliteStore:
    """A `DurableStore` (interface.py documents the methods) in one SQLite file, as one worker has it."""

    def __init__(
        self,
        path: Path,
        worker: WorkerId,
        *,
        busy_s: float = BUSY_S,
        close_s: float = CLOSE_S,
        calls_per_organization: int = 0,
        may_create: bool = True,
    ) -> None:
        """`worker`: the worker that uses this object.

        `busy_s`: how long one commit waits for another process's. `close_s`: how long `close` tries to write.
        `calls_per_organization`: active sessions of all agents of an organization; 0 sets no limit.
        `may_create`: whether a missing file is made.
        """
        self._calls_per_organization = calls_per_organization
        self._worker = worker
        self._admits = True
        guard = FileGuard(path)

        def open_file() -> sqlite3.Connection:
            connection = connect(path, busy_s, may_create=may_create)
            guard.opened()
            return connection

        self._writer = writer = Writer(str(path), open_file, close_s, guard.check, guard.check_mapped)
        self._key_values = SqliteKeyValueStore(writer)
        self._history = SqliteHistory(writer)
        self._change_poll = ChangePoll(lambda: writer.submit(Kind.READ, data_version))

    @property
    def key_values(self) -> SqliteKeyValueStore:
        return self._key_values

    @property
    def history(self) -> SqliteHistory:
        return self._history

    @property
    def notifications(self) -> Notifications:
        return self._change_poll.notifications

    @property
    def admits(self) -> bool:
        return self._admits

    @property
    def failing(self) -> bool:
        return self._writer.failing

    @property
    def pending_writes(self) -> int:
        return self._writer.pending_writes

    async def open(self) -> None:
        await self._writer.open()

    async def close(self) -> None:
        self._change_poll.pause()
        self._writer.submit(Kind.REQUEST, partial(worker_rows.leave, self._worker))
        await self._writer.close()

    async def create_pending(
        self,
        details: CallDetails,
        options: SessionOptions,
        now: float,
        expires_at: float,
        limit: PendingLimit | None = None,
    ) -> None:
        create = partial(session_writes.create_pending, details, options, (now, expires_at), limit)
        await self._writer.submit(Kind.REQUEST, create)

    async def admit(
        self,
        details: CallDetails,
        limits: SlotLimits,
        now: float,
        options: SessionOptions = TELEPHONY_OPTIONS,
    ) -> str:
        admission = session_writes.Admission(
            self._worker, details, limits, now, options, max_sessions=self._calls_per_organization
        )
        try:
            instance = await self._writer.submit(Kind.REQUEST, admission.admit)
        except asyncio.CancelledError:
            # The thread may take the slot after the caller has given up; then nothing else would free it.
            withdrawal = self._writer.submit(Kind.DURABLE, admission.withdraw)
            self._notify_after(withdrawal, details.session_id, Topic.SLOT_FREED)
            raise
        self.notifications.publish(Topic.SESSION_CHANGED, details.session_id)
        return instance

    def record_admission(
        self, details: CallDetails, limits: SlotLimits, now: float, options: SessionOptions, instance: str
    ) -> asyncio.Future[None]:
        admission = session_writes.Admission(self._worker, details, limits, now, options)
        recorded = self._writer.submit(Kind.DURABLE, partial(admission.record, instance))
        return self._notify_after(recorded, details.session_id, Topic.SESSION_CHANGED)

    def leave_queue(self, session_id: str) -> asyncio.Future[None]:
        left = self._writer.submit(Kind.DURABLE, partial(session_writes.leave_queue, session_id))
        return self._notify_after(left, session_id, Topic.SLOT_FREED)

    async def attach_stream(self, details: CallDetails, now: float) -> str:
        attachment = session_writes.Attachment(self._worker, details, now)
        try:
            instance = await self._writer.submit(Kind.REQUEST, attachment.attach)
        except asyncio.CancelledError:
            self._writer.submit(Kind.DURABLE, attachment.withdraw)  # as in `admit`
            raise
        self.notifications.publish(Topic.SESSION_CHANGED, details.session_id)
        return instance

    def forget_attached(self, session_id: str) -> None:
        pass  # the file alone knows whose sessions they are

    async def move(self, session_id: str, limits: SlotLimits) -> str:
        move = partial(session_writes.move, self._worker, session_id, limits)
        instance = await self._writer.submit(Kind.REQUEST, move)
        self.notifications.publish(Topic.SLOT_FREED, session_id)
        return instance

    def mark_resumed(self, session_id: str, times: int) -> asyncio.Future[None]:
        return self._writer.submit(Kind.DEFERRED, partial(session_writes.mark_resumed, session_id, times))

    def correct_start_type(self, session_id: str, start_type: str) -> asyncio.Future[None]:
        write = partial(session_writes.correct_start_type, session_id, start_type)
        return self._writer.submit(Kind.DEFERRED, write)

    def mark_running(self, session_id: str, at: float) -> asyncio.Future[None]:
        marked = self._writer.submit(Kind.DEFERRED, partial(session_writes.mark_running, session_id, at))
        return self._notify_after(marked, session_id, Topic.SESSION_CHANGED)

    def end(self, session_id: str, result: SessionResult) -> asyncio.Future[None]:
        ended = self._writer.submit(Kind.DURABLE, partial(session_ends.end, session_id, result))
        return self._notify_after(ended, session_id, *_END_TOPICS)

    def begin_end(self, session_id: str, result: SessionResult) -> asyncio.Future[None]:
        written = self._writer.submit(Kind.DURABLE, partial(session_ends.begin_end, session_id, result))
        return self._notify_after(written, session_id, Topic.SESSION_ENDED, Topic.SESSION_CHANGED)

    def release(self, session_id: str, at: float, by: ReleasedBy | None) -> asyncio.Future[None]:
        released = self._writer.submit(Kind.DURABLE, partial(session_ends.release, session_id, at, by))
        return self._notify_after(released, session_id, *_END_TOPICS)

    def correct_played(self, session_id: str, heard_ms: int) -> asyncio.Future[None]:
        return self._writer.submit(Kind.DEFERRED, partial(session_ends.correct_played, session_id, heard_ms))

    async def ending(self) -> list[SessionRecord]:
        return await self._writer.submit(Kind.READ, partial(session_reads.ending, self._worker.id))

    def end_if_unattached(self, session_id: str, result: SessionResult) -> asyncio.Future[bool]:
        end = partial(session_ends.end_if_unattached, session_id, result)
        return self._notify_after(self._writer.submit(Kind.DURABLE, end), session_id, *_END_TOPICS)

    async def request_stop(self, session_id: str, at: float) -> bool:
        request = partial(session_writes.request_stop, session_id, at)
        requested = await self._writer.submit(Kind.REQUEST, request)
        if requested:  # a pending session has ended with that
            self._notify(session_id, Topic.STOP_REQUESTED, Topic.SESSION_CHANGED, Topic.SESSION_ENDED)
        return requested

    async def stop_requests(self) -> list[str]:
        return await self._writer.submit(Kind.READ, partial(session_writes.stop_requests, self._worker.id))

    async def complete(
        self,
        session_id: str,
        transcript: str | None,
        reported_seconds: float | None,
        results: str | None,
        at: float,
    ) -> bool:
        report = (text(transcript), reported_seconds, text(results))
        complete = partial(session_writes.complete, session_id, report, at)
        return await self._writer.submit(Kind.REQUEST, complete)

    async def session(self, session_id: str) -> SessionRecord | None:
        return await self._writer.submit(Kind.READ, partial(session_reads.session, session_id))

    async def sessions(
        self,
        matching: SessionFilter = ALL_SESSIONS,
        *,
        limit: int = 100,
        offset: int = 0,
        with_reports: bool = False,
    ) -> tuple[list[SessionRecord], int]:
        if limit < 0 or offset < 0:  # to SQLite a negative limit is none
            raise ValueError("limit and offset must not be negative")
        read = partial(session_reads.sessions, matching, limit, offset, with_reports)
        return await self._writer.submit(Kind.READ, read)

    async def counts(self) -> Counts:
        return await self._writer.submit(Kind.READ, session_reads.counts)

    async def heartbeat(self, now: float, passed: Sequence[LiveTraffic] = ()) -> None:
        def beat(connection: sqlite3.Connection) -> None:
            worker_rows.heartbeat(self._worker, now, connection)
            if passed:
                worker_rows.write_passed(self._worker, passed, connection)

        try:
            await self._writer.submit(Kind.REQUEST, beat)
        except StoreFailed:
            self._admits = False
            raise
        self._admits = True

    async def reap(self, now: float) -> list[SessionRecord]:
        lost = await self._writer.submit(Kind.REQUEST, partial(worker_rows.reap, self._worker, now))
        for record in lost:
            log.error("session_lost", session=record.session_id, worker=record.owner, detail=record.detail)
            self._notify(record.session_id, *_END_TOPICS)
        return lost

    def _notify(self, session_id: str, *topics: Topic) -> None:
        for topic in topics:
            self.notifications.publish(topic, session_id)

    def _notify_after(self, written: asyncio.Future[T], session_id: str, *topics: Topic) -> asyncio.Future[T]:
        def notify(written: asyncio.Future[Any]) -> None:
            if not written.cancelled() and written.exception() is None:
                self._notify(session_id, *topics)

        written.add_done_callback(notify)
        return written


_END_TOPICS: Final = (Topic.SESSION_ENDED, Topic.SESSION_CHANGED, Topic.SLOT_FREED)
