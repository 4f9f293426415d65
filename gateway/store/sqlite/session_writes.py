# SPDX-License-Identifier: BSD-2-Clause
"""The steps of a session's life in the SQLite file, from the queue to the reason to end (session_ends.py).

All functions run in the writer's thread; those that write run in a transaction.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Final

import structlog

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Reasons
from gateway.model.session import (
    TELEPHONY_OPTIONS,
    CallDetails,
    PendingLimit,
    QueueLimit,
    SessionOptions,
    SlotLimits,
)
from gateway.store.admission import AtCapacity, Queued, choose_instance
from gateway.store.interface import NotPending
from gateway.store.sqlite.schema import text
from gateway.store.sqlite.worker_rows import heartbeat
from gateway.store.worker_id import WorkerId

log = structlog.get_logger(__name__)

# Before admission

_CREATE_PENDING: Final = f"""
    INSERT INTO session (id, agent, organization, region, carrier, instance, owner,
                         call_id, stream_id, from_number, to_number, state, created_at,
                         transport, start_type, metadata, idle_timeout, max_duration, promised_until, key_id)
    VALUES (?, ?, ?, ?, ?, '', '', ?, ?, ?, ?, '{SessionState.CREATED}', ?, ?, ?, ?, ?, ?, ?, ?)
"""  # noqa: S608 - constants

_PENDING_OF_KEY: Final = """
    SELECT count(*) FROM session INDEXED BY session_pending
    WHERE organization = ? AND key_id = ? AND promised_until > ? AND admitted_at IS NULL AND ended_at IS NULL
"""


def create_pending(
    details: CallDetails,
    options: SessionOptions,
    times: tuple[float, float],
    limit: PendingLimit | None,
    connection: sqlite3.Connection,
) -> None:
    """Create a session that any worker may admit. `times`: now, and until when.

    Raises AtCapacity if the key of `limit` has as many as it may; then nothing has changed.
    """
    now, expires_at = times
    if limit is not None:
        of_key = (text(details.organization), limit.key_id, now)
        (pending,) = connection.execute(_PENDING_OF_KEY, of_key).fetchone()
        if pending >= limit.max_sessions:
            raise AtCapacity(pending, limit.max_sessions)
    row = (
        text(details.session_id),
        text(details.agent),
        text(details.organization),
        text(details.region),
        text(details.carrier),
        text(details.call_id),
        text(details.stream_id),
        text(details.from_number),
        text(details.to_number),
        now,
        *_option_values(options),
        expires_at,
        limit.key_id if limit is not None else None,
    )
    connection.execute(_CREATE_PENDING, row)


# The queue of an agent is ordered by arrival, whichever worker a call came to. Calls that must have given up
# by now (`until`: their worker is stuck) are ignored.

_QUEUED_BEFORE: Final = """
    SELECT count(*) FROM waiting
    WHERE agent = ?1 AND until > ?3
        AND number < coalesce((SELECT number FROM waiting WHERE id = ?2), 9223372036854775807)
"""

_JOIN_QUEUE: Final = """
    INSERT INTO waiting (id, agent, owner, until)
    SELECT ?1, ?2, ?3, ?4 WHERE (SELECT count(*) FROM waiting WHERE agent = ?2 AND until > ?5) < ?6
    ON CONFLICT (id) DO NOTHING
"""


def _join_queue(
    details: CallDetails, queue: QueueLimit, worker: WorkerId, now: float, connection: sqlite3.Connection
) -> int | None:
    """Add a call to its agent's queue unless it is in it. Return its number, None if the queue is full."""
    session_id = text(details.session_id)
    row = (session_id, text(details.agent), worker.id, queue.until, now, queue.size)
    connection.execute(_JOIN_QUEUE, row)
    found = connection.execute("SELECT number FROM waiting WHERE id = ?", (session_id,)).fetchone()
    return int(found[0]) if found else None


def _queued_before(details: CallDetails, now: float, connection: sqlite3.Connection) -> int:
    """Return the number of calls queued before this one; of all queued calls if it is not queued."""
    row = (text(details.agent), text(details.session_id), now)
    (count,) = connection.execute(_QUEUED_BEFORE, row).fetchone()
    return int(count)


def leave_queue(session_id: str, connection: sqlite3.Connection) -> None:
    """Remove a call from its agent's queue."""
    connection.execute("DELETE FROM waiting WHERE id = ?", (text(session_id),))


# Admission

# One row, where a row per instance would be clearer: between two rows the thread gives up the interpreter,
# and on a busy machine waits for it again while it holds the write lock. Only pending sessions have no
# instance; the index skips them.
_LOADS: Final = """
    SELECT (SELECT json_group_object(instance, sessions) FROM (
                SELECT instance, count(*) AS sessions
                FROM session INDEXED BY session_active
                WHERE agent = ?1 AND instance > '' AND ended_at IS NULL GROUP BY instance)),
           EXISTS (SELECT 1 FROM owner WHERE id = ?2),
           EXISTS (SELECT 1 FROM waiting WHERE agent = ?1)
"""

# The name of an organisation is a label: it contains no wildcard.
_ORGANIZATION_LOAD: Final = """
    SELECT count(*) FROM session INDEXED BY session_active
    WHERE agent LIKE '%.' || ? AND instance > '' AND ended_at IS NULL
"""

_ADMIT: Final = f"""
    INSERT INTO session (id, agent, organization, region, carrier, instance, owner,
                         call_id, stream_id, from_number, to_number, state, created_at, admitted_at,
                         transport, start_type, metadata, idle_timeout, max_duration)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, '{SessionState.STARTING}', ?12, ?12,
            ?13, ?14, ?15, ?16, ?17)
    ON CONFLICT (id) DO UPDATE
    SET region = ?4, carrier = ?5, instance = ?6, owner = ?7,
        call_id = ?8, stream_id = ?9, from_number = ?10, to_number = ?11,
        state = '{SessionState.STARTING}', admitted_at = ?12,
        start_type = coalesce(start_type, ?14), metadata = coalesce(metadata, ?15),
        idle_timeout = coalesce(idle_timeout, ?16), max_duration = coalesce(max_duration, ?17)
    WHERE state = '{SessionState.CREATED}' AND promised_until > ?12
        AND agent = ?2 AND organization = ?3 AND stop_requested_at IS NULL
"""  # noqa: S608 - constants

_WITHDRAW: Final = """
    DELETE FROM session WHERE id = ? AND owner = ? AND ended_at IS NULL AND promised_until IS NULL
"""

_MAKE_PENDING_AGAIN: Final = f"""
    UPDATE session SET state = '{SessionState.CREATED}', instance = '', owner = '', admitted_at = NULL
    WHERE id = ? AND owner = ? AND ended_at IS NULL AND promised_until IS NOT NULL
"""  # noqa: S608 - constants


class Admission:
    """One attempt to admit a session. It remembers whether it succeeded, so that it can be withdrawn."""

    __slots__ = ("_admitted", "_details", "_limits", "_max_sessions", "_now", "_options", "_worker")

    def __init__(
        self,
        worker: WorkerId,
        details: CallDetails,
        limits: SlotLimits,
        now: float,
        options: SessionOptions,
        *,
        max_sessions: int = 0,
    ) -> None:
        """`max_sessions`: active sessions that the organization may have; 0 sets no limit."""
        self._worker = worker
        self._details = details
        self._limits = limits
        self._now = now
        self._options = options
        self._max_sessions = max_sessions
        self._admitted = False

    def admit(self, connection: sqlite3.Connection) -> str:
        """Take a slot and return the URL of its instance.

        Raises AtCapacity, Queued or NotPending; then no session has changed.
        """
        details = self._details
        agent = text(details.agent)
        loads, known, has_queue = connection.execute(_LOADS, (agent, self._worker.id)).fetchone()
        if not known:  # so that the worker of every session and queued call can be found dead
            heartbeat(self._worker, self._now, connection)
        if self._max_sessions:
            (in_use,) = connection.execute(_ORGANIZATION_LOAD, (text(details.organization),)).fetchone()
            if in_use >= self._max_sessions:
                raise AtCapacity(in_use, self._max_sessions)
        queued_before = _queued_before(details, self._now, connection) if has_queue else 0
        try:
            instance = choose_instance(self._limits, json.loads(loads), queued_before)
        except AtCapacity as full:
            if self._limits.queue is None:
                raise
            number = _join_queue(details, self._limits.queue, self._worker, self._now, connection)
            if number is None:
                raise
            raise Queued(full.in_use, full.limit, number) from None
        if not self._write(instance, connection):
            raise NotPending("there is a session of this id, and it is not pending for this agent")
        self._admitted = True
        if has_queue:
            leave_queue(details.session_id, connection)
        return instance

    def record(self, instance: str, connection: sqlite3.Connection) -> None:
        """Write an admission that was decided without the store; an existing session is not changed."""
        known = connection.execute("SELECT 1 FROM owner WHERE id = ?", (self._worker.id,)).fetchone()
        if known is None:
            heartbeat(self._worker, self._now, connection)
        if not self._write(instance, connection):
            log_unchanged("session_late_ignored", self._details.session_id, connection)
        leave_queue(self._details.session_id, connection)

    def _write(self, instance: str, connection: sqlite3.Connection) -> bool:
        details = self._details
        row = (
            text(details.session_id),
            text(details.agent),
            text(details.organization),
            text(details.region),
            text(details.carrier),
            instance,
            self._worker.id,
            text(details.call_id),
            text(details.stream_id),
            text(details.from_number),
            text(details.to_number),
            self._now,
            *(_TELEPHONY if self._options is TELEPHONY_OPTIONS else _option_values(self._options)),
        )
        return connection.execute(_ADMIT, row).rowcount > 0

    def withdraw(self, connection: sqlite3.Connection) -> None:
        """Undo the admission: the session is gone, or pending as before."""
        if not self._admitted:  # the session with this id may be another caller's
            return
        own_session = (text(self._details.session_id), self._worker.id)
        connection.execute(_WITHDRAW, own_session)
        connection.execute(_MAKE_PENDING_AGAIN, own_session)


# The stream of an outbound call

# An outbound call is the only telephony session that is admitted without a stream.
_UNATTACHED: Final = f"""
    SELECT owner, region, call_id FROM session
    WHERE id = ? AND agent = ? AND organization = ? AND carrier = ? AND transport =
    '{TELEPHONY_OPTIONS.transport}'
        AND state = '{SessionState.STARTING}' AND stream_id IS NULL AND stop_requested_at IS NULL
"""  # noqa: S608 - constants

_ATTACH: Final = """
    UPDATE session
    SET owner = ?, region = ?, call_id = ?, stream_id = ?,
        from_number = coalesce(from_number, ?), to_number = coalesce(to_number, ?)
    WHERE id = ?
    RETURNING instance
"""

_DETACH: Final = f"""
    UPDATE session SET owner = ?, region = ?, call_id = ?, stream_id = NULL
    WHERE id = ? AND owner = ? AND state = '{SessionState.STARTING}'
"""  # noqa: S608 - constants


class Attachment:
    """One attempt to attach a stream. It remembers the earlier owner, so that it can be withdrawn."""

    __slots__ = ("_details", "_earlier", "_now", "_worker")

    def __init__(self, worker: WorkerId, details: CallDetails, now: float) -> None:
        self._worker = worker
        self._details = details
        self._now = now
        self._earlier: tuple[str, str, str | None] | None = None

    def attach(self, connection: sqlite3.Connection) -> str:
        """Make this worker the owner and return the URL of the session's instance.

        Raises NotPending; then nothing has changed.
        """
        details = self._details
        expected = (
            text(details.session_id),
            text(details.agent),
            text(details.organization),
            text(details.carrier),
        )
        earlier = connection.execute(_UNATTACHED, expected).fetchone()
        if earlier is None:
            raise NotPending("no session of this id waits for a stream")
        heartbeat(self._worker, self._now, connection)  # as in Admission.admit
        row = (
            self._worker.id,
            text(details.region),
            text(details.call_id),
            text(details.stream_id) or "",
            text(details.from_number),
            text(details.to_number),
            text(details.session_id),
        )
        (instance,) = connection.execute(_ATTACH, row).fetchone()
        self._earlier = earlier
        return str(instance)

    def withdraw(self, connection: sqlite3.Connection) -> None:
        """Undo the attachment: the session belongs to its earlier owner and has no stream."""
        if self._earlier is not None:
            connection.execute(_DETACH, (*self._earlier, text(self._details.session_id), self._worker.id))


# While it runs

# As _LOADS, without the session that is to be moved.
_OTHER_LOADS: Final = """
    SELECT json_group_object(instance, sessions) FROM (
        SELECT instance, count(*) AS sessions
        FROM session INDEXED BY session_active
        WHERE agent = ?1 AND instance > '' AND ended_at IS NULL AND id <> ?2 GROUP BY instance)
"""

_MOVABLE: Final = """
    SELECT agent FROM session
    WHERE id = ? AND owner = ? AND ended_at IS NULL AND stop_requested_at IS NULL AND admitted_at IS NOT NULL
"""

_MARK_RUNNING: Final = f"""
    UPDATE session SET state = '{SessionState.RUNNING}', started_at = ? WHERE id = ? AND state =
    '{SessionState.STARTING}'
"""  # noqa: S608 - constants

_COMPLETE: Final = """
    UPDATE session SET transcript = ?, reported_seconds = ?, results = ?, completed_at = ?
    WHERE id = ? AND ended_at IS NULL AND admitted_at IS NOT NULL AND completed_at IS NULL
"""


def move(worker: WorkerId, session_id: str, limits: SlotLimits, connection: sqlite3.Connection) -> str:
    """Give a session a slot on another instance and return its URL.

    Raises AtCapacity or NotPending; then nothing has changed.
    """
    stored_id = text(session_id)
    found = connection.execute(_MOVABLE, (stored_id, worker.id)).fetchone()
    if found is None:
        raise NotPending("the session is over, is to stop, or is another worker's")
    (loads,) = connection.execute(_OTHER_LOADS, (found[0], stored_id)).fetchone()
    instance = choose_instance(limits, json.loads(loads))
    connection.execute("UPDATE session SET instance = ? WHERE id = ?", (instance, stored_id))
    return instance


def mark_running(session_id: str, at: float, connection: sqlite3.Connection) -> None:
    """Make a starting session `running`."""
    if not connection.execute(_MARK_RUNNING, (at, text(session_id))).rowcount:
        log_unchanged("session_start_ignored", session_id, connection)


def mark_resumed(session_id: str, times: int, connection: sqlite3.Connection) -> None:
    """Record how often another agent has taken the session over."""
    connection.execute("UPDATE session SET resumed = max(resumed, ?) WHERE id = ?", (times, text(session_id)))


def correct_start_type(session_id: str, start_type: str, connection: sqlite3.Connection) -> None:
    """Replace a session's start type."""
    row = (text(start_type), text(session_id))
    connection.execute("UPDATE session SET start_type = ? WHERE id = ?", row)


def complete(
    session_id: str, report: tuple[str | float | None, ...], at: float, connection: sqlite3.Connection
) -> bool:
    """Store the agent's report about an active session. Return True unless it has one."""
    row = (*report, at, text(session_id))
    return connection.execute(_COMPLETE, row).rowcount > 0


# Stop requests

_REQUEST_STOP: Final = """
    UPDATE session SET stop_requested_at = coalesce(stop_requested_at, ?) WHERE id = ? AND ended_at IS NULL
"""

_CANCEL_PENDING: Final = f"""
    UPDATE session
    SET state = '{SessionState.CANCELED}', ended_at = ?, reason = ?, side = ?, detail = '', close_code = ?
    WHERE id = ? AND state = '{SessionState.CREATED}'
"""  # noqa: S608 - constants

_STOP_REQUESTS: Final = f"""
    SELECT id FROM session INDEXED BY session_stop
    WHERE owner = ? AND stop_requested_at IS NOT NULL AND ended_at IS NULL
        AND state <> '{SessionState.ENDING}'
    ORDER BY number
"""  # noqa: S608 - constants


def request_stop(session_id: str, at: float, connection: sqlite3.Connection) -> bool:
    """Record a stop request; cancel a pending session. Return False if it is unknown or over."""
    stored_id = text(session_id)
    if not connection.execute(_REQUEST_STOP, (at, stored_id)).rowcount:
        return False
    reason = Reasons.stopped
    connection.execute(_CANCEL_PENDING, (at, reason.code, reason.party, reason.close_code, stored_id))
    return True


def stop_requests(worker_id: str, connection: sqlite3.Connection) -> list[str]:
    """Return the ids of a worker's sessions that are to stop and do not, in order of arrival."""
    return [session_id for (session_id,) in connection.execute(_STOP_REQUESTS, (worker_id,)).fetchall()]


def _option_values(options: SessionOptions) -> tuple[str | float | None, ...]:
    return (
        text(options.transport),
        text(options.start_type),
        text(options.metadata),
        options.idle_timeout,
        options.max_duration,
    )


_TELEPHONY: Final = _option_values(TELEPHONY_OPTIONS)  # computed once: most calls have these options


def log_unchanged(event: str, session_id: str, connection: sqlite3.Connection) -> None:
    """Log that an operation had no effect, with the state that the session is in."""
    row = connection.execute("SELECT state FROM session WHERE id = ?", (text(session_id),)).fetchone()
    log.info(event, session=session_id, state=row[0] if row else "unknown")
