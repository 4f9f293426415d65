# SPDX-License-Identifier: BSD-2-Clause
"""The store in one SQLite file, shared by all workers of a machine."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.errors import Endings, Side
from gateway.sessions.admission import choose
from gateway.sessions.lifecycle import TERMINAL, State, over
from gateway.sessions.owner import STALE_S, Owner
from gateway.sessions.schema import COLUMNS, connect
from gateway.sessions.session import CallFacts, Outcome, Places, SessionRecord
from gateway.sessions.store import Counts
from gateway.sessions.writer import Kind, Writer

log = structlog.get_logger(__name__)

CLOSE_S: Final = 5.0
"""How long a close tries to write what is owed."""

BUSY_S: Final = 2.0
"""How long one commit waits for another process's."""

_STATE: Final = COLUMNS.split(", ").index("state")
_SIDE: Final = COLUMNS.split(", ").index("side")

_ACTIVE: Final[dict[bool | None, list[str]]] = {
    None: [],
    True: ["ended_at IS NULL"],
    False: ["ended_at IS NOT NULL"],
}

# One row, where a row per instance would be clearer: between two rows the thread gives up the interpreter,
# and on a busy machine waits for it again with the write lock in its hand.
_LOADS: Final = """
    SELECT (SELECT json_group_object(instance, sessions) FROM (
                SELECT instance, count(*) AS sessions
                FROM session INDEXED BY session_active
                WHERE agent = ?1 AND ended_at IS NULL GROUP BY instance)),
           EXISTS (SELECT 1 FROM owner WHERE id = ?2)
"""

_ADMIT: Final = f"""
    INSERT INTO session (id, agent, organization, region, carrier, instance, owner,
                         call_id, stream_id, from_number, to_number, state, created_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '{State.STARTING}', ?)
"""  # noqa: S608 - constants

_WITHDRAW: Final = "DELETE FROM session WHERE id = ? AND owner = ? AND ended_at IS NULL"

_STARTED: Final = f"""
    UPDATE session SET state = '{State.RUNNING}', started_at = ? WHERE id = ? AND state = '{State.STARTING}'
"""  # noqa: S608 - constants

# `started_at` says whether it ran: lifecycle.over().
_ENDED: Final = """
    UPDATE session
    SET state = CASE WHEN started_at IS NULL THEN ? ELSE ? END,
        ended_at = ?, reason = ?, side = ?, detail = ?, close_code = ?,
        frames_in = ?, bytes_in = ?, frames_out = ?, bytes_out = ?, first_agent_sound_at = ?
    WHERE id = ? AND ended_at IS NULL
"""

# A gap in a worker's own beats begins its being heard anew; a clock set back counts as a gap.
_BEAT: Final = """
    INSERT INTO owner (id, host, pid, born, heard_since, beat_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5)
    ON CONFLICT (id) DO UPDATE SET
        heard_since = CASE WHEN ?5 - beat_at BETWEEN 0 AND ?6 THEN heard_since ELSE ?5 END, beat_at = ?5
"""

_HEARD: Final = """
    SELECT EXISTS (SELECT 1 FROM owner
                   WHERE id = ?1 AND ?2 - heard_since >= ?3 AND ?2 - beat_at BETWEEN 0 AND ?3)
"""

_REAP: Final = f"""
    UPDATE session
    SET state = '{State.FAILED}', ended_at = ?, reason = ?, side = ?, detail = ?, close_code = ?
    WHERE owner = ? AND ended_at IS NULL
    RETURNING number, {COLUMNS}
"""  # noqa: S608 - constants

_LEAVE: Final = """
    DELETE FROM owner
    WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM session WHERE owner = ?1 AND ended_at IS NULL)
"""


class SqliteStore:
    """A `Store` (store.py, where the methods are documented) in the file `path`, for the worker `owner`."""

    def __init__(self, path: Path, owner: Owner, *, busy_s: float = BUSY_S, close_s: float = CLOSE_S) -> None:
        """`busy_s`: how long one commit waits for another process's. `close_s`: how long a close tries."""
        self._owner = owner
        self._writer = Writer(str(path), partial(connect, path, busy_s), close_s)

    async def open(self) -> None:
        await self._writer.open()

    async def close(self) -> None:
        self._writer.submit(Kind.ASK, self._leave)
        await self._writer.close()

    async def admit(self, facts: CallFacts, places: Places, now: float) -> str:
        try:
            return await self._writer.submit(Kind.ASK, partial(self._admit, facts, places, now))
        except asyncio.CancelledError:
            # The caller gave up while the thread may have taken the place: nobody else would give it back.
            self._writer.submit(Kind.OWE, partial(self._withdraw, facts.session_id))
            raise

    def started(self, session_id: str, at: float) -> asyncio.Future[None]:
        return self._writer.submit(Kind.OWE, partial(_started, session_id, at))

    def ended(self, session_id: str, outcome: Outcome) -> asyncio.Future[None]:
        return self._writer.submit(Kind.OWE, partial(_ended, session_id, outcome))

    async def session(self, session_id: str) -> SessionRecord | None:
        return await self._writer.submit(Kind.READ, partial(_session, session_id))

    async def sessions(
        self,
        *,
        agent: str | None = None,
        organization: str | None = None,
        active: bool | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[list[SessionRecord], int]:
        if limit < 0 or offset < 0:  # SQLite takes a negative limit for none
            raise ValueError("limit and offset must not be negative")
        wanted = {"agent = ?": agent, "organization = ?": organization}
        values = {condition: _text(value) for condition, value in wanted.items() if value is not None}
        where = " AND ".join([*values, *_ACTIVE[active]]) or "true"
        return await self._writer.submit(
            Kind.READ, partial(_sessions, where, list(values.values()), limit, offset)
        )

    async def counts(self) -> Counts:
        return await self._writer.submit(Kind.READ, _counts)

    async def beat(self, now: float) -> None:
        await self._writer.submit(Kind.ASK, partial(self._beat, now))

    async def reap(self, now: float) -> list[SessionRecord]:
        lost = await self._writer.submit(Kind.ASK, partial(self._reap, now))
        for record in lost:
            log.warning("session_lost", session=record.session_id, worker=record.owner, detail=record.detail)
        return lost

    # What follows runs in the writer's thread.

    def _admit(self, facts: CallFacts, places: Places, now: float, connection: sqlite3.Connection) -> str:
        agent = _text(facts.agent)
        loads, known = connection.execute(_LOADS, (agent, self._owner.id)).fetchone()
        instance = choose(places, json.loads(loads))
        if not known:  # an active session always has an owner that can be found dead
            self._beat(now, connection)
        row = (
            _text(facts.session_id),
            agent,
            _text(facts.organization),
            _text(facts.region),
            _text(facts.carrier),
            instance,
            self._owner.id,
            _text(facts.call_id),
            _text(facts.stream_id),
            _text(facts.from_number),
            _text(facts.to_number),
            now,
        )
        connection.execute(_ADMIT, row)
        return instance

    def _withdraw(self, session_id: str, connection: sqlite3.Connection) -> None:
        connection.execute(_WITHDRAW, (_text(session_id), self._owner.id))

    def _beat(self, now: float, connection: sqlite3.Connection) -> None:
        me = self._owner
        connection.execute(_BEAT, (me.id, me.host, me.pid, me.born, now, STALE_S))

    def _leave(self, connection: sqlite3.Connection) -> None:
        connection.execute(_LEAVE, (self._owner.id,))

    def _reap(self, now: float, connection: sqlite3.Connection) -> list[SessionRecord]:
        # Silence proves a death only to one who was heard all the while: after the file was out of reach for
        # everybody, or the machine slept, everybody was silent, and the first to wake must not end all calls.
        (may_judge,) = connection.execute(_HEARD, (self._owner.id, now, STALE_S)).fetchone()
        rows = connection.execute(
            "SELECT id, host, pid, born, beat_at FROM owner WHERE id <> ?", (self._owner.id,)
        ).fetchall()
        lost: list[tuple[Any, ...]] = []
        for owner_id, host, pid, born, beat_at in rows:
            if host == self._owner.host:
                dead = Owner(owner_id, host, pid, born).process_gone()
                why = f"process {pid} is gone"
            else:
                # A beat far in the future is of a clock that was set back since.
                dead = may_judge and abs(now - beat_at) > STALE_S
                why = f"nothing heard for {abs(now - beat_at):.0f} s"
            if dead:
                lost += self._bury(owner_id, why, now, connection)
        lost.sort()  # by number, which is unique
        return [_record(row[1:]) for row in lost]

    def _bury(
        self, owner_id: str, why: str, now: float, connection: sqlite3.Connection
    ) -> list[tuple[Any, ...]]:
        ending = Endings.gateway_lost
        lost = connection.execute(
            _REAP, (now, ending.code, ending.side, why, ending.close_code, owner_id)
        ).fetchall()
        connection.execute("DELETE FROM owner WHERE id = ?", (owner_id,))
        return lost


def _text(value: str | None) -> str | None:
    """What the file can hold: JSON lets half a surrogate pair into a carrier's text, UTF-8 does not."""
    if value is None or value.isascii():
        return value
    return value.encode("utf-8", "replace").decode()


def _started(session_id: str, at: float, connection: sqlite3.Connection) -> None:
    if not connection.execute(_STARTED, (at, _text(session_id))).rowcount:
        _log_unchanged("session_start_ignored", session_id, connection)


def _ended(session_id: str, outcome: Outcome, connection: sqlite3.Connection) -> None:
    traffic = outcome.traffic
    row = (
        over(False, outcome.state),
        over(True, outcome.state),
        outcome.ended_at,
        _text(outcome.reason),
        outcome.side,
        _text(outcome.detail),
        outcome.close_code,
        traffic.frames_in,
        traffic.bytes_in,
        traffic.frames_out,
        traffic.bytes_out,
        outcome.first_agent_sound_at,
        _text(session_id),
    )
    if not connection.execute(_ENDED, row).rowcount:
        _log_unchanged("session_end_ignored", session_id, connection)


def _log_unchanged(event: str, session_id: str, connection: sqlite3.Connection) -> None:
    row = connection.execute("SELECT state FROM session WHERE id = ?", (_text(session_id),)).fetchone()
    log.info(event, session=session_id, state=row[0] if row else "unknown")


def _session(session_id: str, connection: sqlite3.Connection) -> SessionRecord | None:
    row = connection.execute(
        f"SELECT {COLUMNS} FROM session WHERE id = ?",  # noqa: S608 - constants
        (_text(session_id),),
    ).fetchone()
    return _record(row) if row else None


def _sessions(
    where: str, values: list[str | None], limit: int, offset: int, connection: sqlite3.Connection
) -> tuple[list[SessionRecord], int]:
    (total,) = connection.execute(
        f"SELECT count(*) FROM session WHERE {where}",  # noqa: S608 - of constants, see `sessions`
        values,
    ).fetchone()
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM session WHERE {where} ORDER BY number DESC LIMIT ? OFFSET ?",  # noqa: S608
        [*values, limit, offset],
    ).fetchall()
    return [_record(row) for row in rows], total


def _counts(connection: sqlite3.Connection) -> Counts:
    active = {state: 0 for state in State if state not in TERMINAL}
    over_ = {state: 0 for state in State if state in TERMINAL}
    for state, sessions in connection.execute(
        "SELECT state, count(*) FROM session INDEXED BY session_active WHERE ended_at IS NULL GROUP BY state"
    ):
        active[State(state)] = sessions
    for state, sessions in connection.execute("SELECT state, sessions FROM tally"):
        over_[State(state)] = sessions
    return Counts(active, over_)


def _record(row: tuple[Any, ...]) -> SessionRecord:
    values = list(row)
    values[_STATE] = State(values[_STATE])
    if values[_SIDE] is not None:
        values[_SIDE] = Side(values[_SIDE])
    return SessionRecord(*values)
