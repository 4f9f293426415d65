# SPDX-License-Identifier: BSD-2-Clause
"""The steps of a session's life in the SQLite file.

All of it runs in the writer's thread, in a transaction.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Final

import structlog

from gateway.model.lifecycle import SessionState, over
from gateway.model.session import TELEPHONY_OPTIONS, CallDetails, SessionOptions, SessionResult, SlotLimits
from gateway.store.admission import AtCapacity, Queued, choose_instance
from gateway.store.interface import NotPromised
from gateway.store.sqlite import sqlite_line
from gateway.store.sqlite.schema import text
from gateway.store.sqlite.worker_rows import beat
from gateway.store.worker_id import WorkerId

log = structlog.get_logger(__name__)

_PROMISE: Final = f"""
    INSERT INTO session (id, agent, organization, region, carrier, instance, owner,
                         call_id, stream_id, from_number, to_number, state, created_at,
                         transport, start_type, metadata, idle_timeout, max_duration, promised_until)
    VALUES (?, ?, ?, ?, ?, '', '', ?, ?, ?, ?, '{SessionState.CREATED}', ?, ?, ?, ?, ?, ?, ?)
"""  # noqa: S608 - constants

# One row, where a row per instance would be clearer: between two rows the thread gives up the interpreter,
# and on a busy machine waits for it again with the write lock in its hand. Only promised sessions have no
# instance, and they are passed over without being looked at.
_LOADS: Final = """
    SELECT (SELECT json_group_object(instance, sessions) FROM (
                SELECT instance, count(*) AS sessions
                FROM session INDEXED BY session_active
                WHERE agent = ?1 AND instance > '' AND ended_at IS NULL GROUP BY instance)),
           EXISTS (SELECT 1 FROM owner WHERE id = ?2),
           EXISTS (SELECT 1 FROM waiting WHERE agent = ?1)
"""

# The name of an organisation is a label: it holds no wildcard.
_ORGANIZATION: Final = """
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

_PROMISE_AGAIN: Final = f"""
    UPDATE session SET state = '{SessionState.CREATED}', instance = '', owner = '', admitted_at = NULL
    WHERE id = ? AND owner = ? AND ended_at IS NULL AND promised_until IS NOT NULL
"""  # noqa: S608 - constants

_STARTED: Final = f"""
    UPDATE session SET state = '{SessionState.RUNNING}', started_at = ? WHERE id = ? AND state =
    '{SessionState.STARTING}'
"""  # noqa: S608 - constants

# `started_at` says whether it ran: lifecycle.over().
_ENDED: Final = """
    UPDATE session
    SET state = CASE WHEN started_at IS NULL THEN ? ELSE ? END,
        ended_at = ?, reason = ?, side = ?, detail = ?, close_code = ?, completion_status = ?,
        frames_in = ?, bytes_in = ?, frames_out = ?, bytes_out = ?, first_agent_sound_at = ?
    WHERE id = ? AND ended_at IS NULL
"""

_ABANDONED: Final = f"{_ENDED} AND stream_id IS NULL"

# What waits for its stream: every other session has had one when it was admitted, or is not a carrier's.
_WAITING: Final = f"""
    SELECT owner, region, call_id FROM session
    WHERE id = ? AND agent = ? AND organization = ? AND carrier = ? AND transport =
    '{TELEPHONY_OPTIONS.transport}'
        AND state = '{SessionState.STARTING}' AND stream_id IS NULL AND stop_requested_at IS NULL
"""  # noqa: S608 - constants

_ADOPT: Final = """
    UPDATE session
    SET owner = ?, region = ?, call_id = ?, stream_id = ?,
        from_number = coalesce(from_number, ?), to_number = coalesce(to_number, ?)
    WHERE id = ?
    RETURNING instance
"""

_WAIT_AGAIN: Final = f"""
    UPDATE session SET owner = ?, region = ?, call_id = ?, stream_id = NULL
    WHERE id = ? AND owner = ? AND state = '{SessionState.STARTING}'
"""  # noqa: S608 - constants

# As _LOADS, without the session that is to be moved.
_LOADS_WITHOUT: Final = """
    SELECT json_group_object(instance, sessions) FROM (
        SELECT instance, count(*) AS sessions
        FROM session INDEXED BY session_active
        WHERE agent = ?1 AND instance > '' AND ended_at IS NULL AND id <> ?2 GROUP BY instance)
"""

_MOVABLE: Final = """
    SELECT agent FROM session
    WHERE id = ? AND owner = ? AND ended_at IS NULL AND stop_requested_at IS NULL AND admitted_at IS NOT NULL
"""

_COMPLETE: Final = """
    UPDATE session SET transcript = ?, reported_seconds = ?, results = ?, completed_at = ?
    WHERE id = ? AND ended_at IS NULL AND admitted_at IS NOT NULL AND completed_at IS NULL
"""


def promise(
    details: CallDetails,
    options: SessionOptions,
    now: float,
    expires_at: float,
    connection: sqlite3.Connection,
) -> None:
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
        *_values(options),
        expires_at,
    )
    connection.execute(_PROMISE, row)


class Admission:
    """One caller's try to be admitted; it knows whether there is anything to take back."""

    __slots__ = ("_details", "_most", "_now", "_options", "_owner", "_places", "_took")

    def __init__(
        self,
        owner: WorkerId,
        details: CallDetails,
        places: SlotLimits,
        now: float,
        options: SessionOptions,
        *,
        most: int = 0,
    ) -> None:
        """`most`: sessions that the organization may have at once; 0 sets no limit."""
        self._most = most
        self._owner = owner
        self._details = details
        self._places = places
        self._now = now
        self._options = options
        self._took = False

    def admit(self, connection: sqlite3.Connection) -> str:
        """The URL of the instance. Raises AtCapacity, Queued or NotPromised, and changed no session."""
        details = self._details
        agent = text(details.agent)
        loads, known, is_line = connection.execute(_LOADS, (agent, self._owner.id)).fetchone()
        if not known:  # whoever is active or waits always has an owner that can be found dead
            beat(self._owner, self._now, connection)
        if self._most:
            (taken,) = connection.execute(_ORGANIZATION, (text(details.organization),)).fetchone()
            if taken >= self._most:
                raise AtCapacity(taken, self._most)
        ahead = sqlite_line.ahead(details, self._now, connection) if is_line else 0
        try:
            instance = choose_instance(self._places, json.loads(loads), ahead)
        except AtCapacity as full:
            if self._places.queue is None:
                raise
            number = sqlite_line.join(details, self._places.queue, self._owner, self._now, connection)
            if number is None:
                raise
            raise Queued(full.taken, full.limit, number) from None
        if not self._write(instance, connection):
            raise NotPromised("there is a session of this id, and it is not promised to this agent")
        self._took = True
        if is_line:
            sqlite_line.leave(details.session_id, connection)
        return instance

    def write_late(self, instance: str, connection: sqlite3.Connection) -> None:
        """Writes down what was decided without the file; of a session that there is nothing is changed."""
        owner = connection.execute("SELECT 1 FROM owner WHERE id = ?", (self._owner.id,)).fetchone()
        if owner is None:
            beat(self._owner, self._now, connection)
        if not self._write(instance, connection):
            _log_unchanged("session_late_ignored", self._details.session_id, connection)
        sqlite_line.leave(self._details.session_id, connection)

    def _write(self, instance: str, connection: sqlite3.Connection) -> bool:
        details = self._details
        row = (
            text(details.session_id),
            text(details.agent),
            text(details.organization),
            text(details.region),
            text(details.carrier),
            instance,
            self._owner.id,
            text(details.call_id),
            text(details.stream_id),
            text(details.from_number),
            text(details.to_number),
            self._now,
            *(_TELEPHONY if self._options is TELEPHONY_OPTIONS else _values(self._options)),
        )
        return connection.execute(_ADMIT, row).rowcount > 0

    def withdraw(self, connection: sqlite3.Connection) -> None:
        """Undoes it: the session is gone, or promised as before."""
        if not self._took:  # another's session may have this id
            return
        mine = (text(self._details.session_id), self._owner.id)
        connection.execute(_WITHDRAW, mine)
        connection.execute(_PROMISE_AGAIN, mine)


class Adoption:
    """One worker's try to adopt a session; it knows whose it was, to give it back."""

    __slots__ = ("_before", "_details", "_now", "_owner")

    def __init__(self, owner: WorkerId, details: CallDetails, now: float) -> None:
        self._owner = owner
        self._details = details
        self._now = now
        self._before: tuple[str, str, str | None] | None = None

    def adopt(self, connection: sqlite3.Connection) -> str:
        """The URL of the instance. Raises NotPromised, and has then changed nothing."""
        details = self._details
        which = (
            text(details.session_id),
            text(details.agent),
            text(details.organization),
            text(details.carrier),
        )
        before = connection.execute(_WAITING, which).fetchone()
        if before is None:
            raise NotPromised("no session of this id waits for a stream")
        beat(self._owner, self._now, connection)  # an active session always has an owner that can be found
        row = (
            self._owner.id,
            text(details.region),
            text(details.call_id),
            text(details.stream_id) or "",
            text(details.from_number),
            text(details.to_number),
            text(details.session_id),
        )
        (instance,) = connection.execute(_ADOPT, row).fetchone()
        self._before = before
        return str(instance)

    def withdraw(self, connection: sqlite3.Connection) -> None:
        """Undoes it: the session waits as before, and is whose it was."""
        if self._before is not None:
            connection.execute(_WAIT_AGAIN, (*self._before, text(self._details.session_id), self._owner.id))


def move(owner: WorkerId, session_id: str, places: SlotLimits, connection: sqlite3.Connection) -> str:
    """The URL of the instance. Raises AtCapacity or NotPromised, and has then changed nothing."""
    known = text(session_id)
    found = connection.execute(_MOVABLE, (known, owner.id)).fetchone()
    if found is None:
        raise NotPromised("the session is over, is to stop, or is another worker's")
    (loads,) = connection.execute(_LOADS_WITHOUT, (found[0], known)).fetchone()
    instance = choose_instance(places, json.loads(loads))
    connection.execute("UPDATE session SET instance = ? WHERE id = ?", (instance, known))
    return instance


def resumed(session_id: str, times: int, connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE session SET resumed = max(resumed, ?) WHERE id = ?", (times, text(session_id)))


def started(session_id: str, at: float, connection: sqlite3.Connection) -> None:
    if not connection.execute(_STARTED, (at, text(session_id))).rowcount:
        _log_unchanged("session_start_ignored", session_id, connection)


def ended(session_id: str, result: SessionResult, connection: sqlite3.Connection) -> None:
    if not connection.execute(_ENDED, _end(session_id, result)).rowcount:
        _log_unchanged("session_end_ignored", session_id, connection)


def abandoned(session_id: str, result: SessionResult, connection: sqlite3.Connection) -> bool:
    return connection.execute(_ABANDONED, _end(session_id, result)).rowcount > 0


def _end(session_id: str, result: SessionResult) -> tuple[str | int | float | None, ...]:
    traffic = result.traffic
    return (
        over(False, result.state),
        over(True, result.state),
        result.ended_at,
        text(result.reason),
        result.side,
        text(result.detail),
        result.close_code,
        text(result.completion_status),
        traffic.frames_in,
        traffic.bytes_in,
        traffic.frames_out,
        traffic.bytes_out,
        result.first_agent_sound_at,
        text(session_id),
    )


def complete(
    session_id: str, report: tuple[str | float | None, ...], at: float, connection: sqlite3.Connection
) -> bool:
    row = (*report, at, text(session_id))
    return connection.execute(_COMPLETE, row).rowcount > 0


def _values(options: SessionOptions) -> tuple[str | float | None, ...]:
    return (
        text(options.transport),
        text(options.start_type),
        text(options.metadata),
        options.idle_timeout,
        options.max_duration,
    )


_TELEPHONY: Final = _values(TELEPHONY_OPTIONS)  # most calls come with it


def _log_unchanged(event: str, session_id: str, connection: sqlite3.Connection) -> None:
    row = connection.execute("SELECT state FROM session WHERE id = ?", (text(session_id),)).fetchone()
    log.info(event, session=session_id, state=row[0] if row else "unknown")
