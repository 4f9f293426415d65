# SPDX-License-Identifier: BSD-2-Clause
"""The one thread that owns the SQLite connection, and commits what waits as one group."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from gateway.model.futures import ignore_exception
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)

# Operations come from the event loop through a queue. The thread takes all that wait and commits them as one
# transaction: under load one commit serves many, and with none to share it nobody waits for company.
#
# Every operation writes with one statement, or with several of which each may be repeated. SQLite undoes a
# failing statement by itself, so an operation that fails for its own reason spoils no other, and savepoints
# are not needed. What fails for the file's reason (locked, full, read-only, broken) fails the whole group,
# and what then happens depends on the kind:
#
#   ASK   somebody waits for the answer, and a late one is worthless: fails with the group
#   OWE   the truth about a session that is there: kept, in order, and tried again until it is written
#   NOTE  the same, and nobody waits for it: it stays in the event loop until something else is asked for, for
#         GATHER_S at the most, since to wake the thread and to commit each cost more than the write
#   READ  needs no lock: done by itself after the group, so it sees what was asked for before it
#
# What is owed needs no limit of its own in memory. It is written before whatever came after it, so while any
# of it is left nobody is admitted, and each session that was admitted owes two writes or a withdrawal. Who
# admits all the same (standin.py) limits it by `owed`.

GROUP_LIMIT: Final = 512
"""Operations in one transaction: it holds the file's write lock, which other workers wait for."""

GATHER_S: Final = 0.02
"""How long a note waits for something to be written with; far below what anybody reads a state for."""

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
"""Between two tries to write what is owed, when nothing else happens; each is twice the one before."""

OWN_FAULT: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
)
"""Errors of SQLite that are an operation's own."""

T = TypeVar("T")
Answer = tuple[asyncio.Future[Any], object, Exception | None]


class Kind(Enum):
    """What becomes of an operation when the file fails it."""

    ASK = auto()
    OWE = auto()
    NOTE = auto()
    READ = auto()


@dataclass(frozen=True, slots=True)
class Work:
    kind: Kind
    run: Callable[[sqlite3.Connection], object]
    future: asyncio.Future[Any]

    @property
    def owed(self) -> bool:
        return self.kind is Kind.OWE or self.kind is Kind.NOTE


class Writer:
    """Runs operations on a connection of its own thread. Its methods belong to one event loop."""

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection], close_s: float) -> None:
        """`name`: of the file, for sentences. `connect`: may raise StoreFailed. `close_s`: see `close`."""
        self._name = name
        self._connect = connect
        self._close_s = close_s
        self._queue: queue.SimpleQueue[Sequence[Work] | None] = queue.SimpleQueue()  # None: the end
        self._notes: list[Work] = []  # that wait for something to go with
        self._deadline: float | None = None  # set in the thread, when it came to the end
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._opened: asyncio.Future[None]
        self._gone: asyncio.Future[None]
        self._takes = False
        self.owed = 0
        """Writes that are owed and not written yet. For the event loop."""
        self.said_full = False
        """Whether somebody was told already that there are too many of them."""
        self.failing = False
        """Whether the file failed when it was last written. Set in the thread."""

    # In the event loop.

    async def open(self) -> None:
        """Starts the thread and opens the file. Raises StoreFailed, with nothing left running."""
        if self._thread is not None:
            raise StoreFailed(f"the session store {self._name} was opened already")
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        self._gone = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name="session-store", daemon=True)
        self._thread.start()
        try:
            await self._opened
        except asyncio.CancelledError:
            self._queue.put(None)
            raise
        self._takes = True

    def submit(self, kind: Kind, run: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Queues an operation. Its future may be left alone: a failure in it is then not complained of."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        future.add_done_callback(ignore_exception)
        if self._takes:
            work = Work(kind, run, future)
            if work.owed:
                self.owed += 1
                future.add_done_callback(self._one_less)
            if kind is Kind.NOTE:
                self._gather(work)
            else:
                self._pass_on(work)
        else:
            future.set_exception(StoreFailed(f"the session store {self._name} is not open"))
        return future

    async def close(self) -> None:
        """Writes what waits and is owed, then ends the thread; bounded by `close_s` and one busy wait."""
        if self._thread is None:
            return
        if self._takes:
            self._takes = False
            self._pass_on()
            self._queue.put(None)
        await asyncio.shield(self._gone)
        self._thread.join()  # it has said its last word

    def _gather(self, note: Work) -> None:
        if not self._notes:
            self._loop.call_later(GATHER_S, self._pass_on)
        self._notes.append(note)

    def _pass_on(self, *works: Work) -> None:
        """To the thread, behind the notes that wait."""
        if self._notes or works:
            notes, self._notes = self._notes, []
            self._queue.put([*notes, *works])

    def _one_less(self, _: asyncio.Future[Any]) -> None:
        self.owed -= 1
        if not self.owed:
            self.said_full = False

    # In the thread.

    def _work(self) -> None:
        try:
            connection = self._connect()
        except Exception as failure:  # noqa: BLE001 - the edge of the thread: whoever opens is told
            self._answer([(self._opened, None, failure), (self._gone, None, None)])
            return
        try:
            self._answer([(self._opened, None, None)])
            self._serve(connection)
        finally:
            connection.close()
            self._takes = False  # it was still true only if the thread itself failed
            self._fail(self._take(0, None), StoreFailed(f"the session store {self._name} has stopped"))
            self._answer([(self._gone, None, None)])

    def _serve(self, connection: sqlite3.Connection) -> None:
        owed: list[Work] = []
        pause: float | None = None
        failure: StoreFailed | None
        while self._deadline is None or (owed and time.monotonic() < self._deadline):
            batch = self._take(pause if self._deadline is None else FIRST_PAUSE_S, GROUP_LIMIT)
            waited = len(owed)
            writes = owed + [work for work in batch if work.kind is not Kind.READ]
            tried = bool(writes)
            writes, failure = self._commit_all(connection, writes)
            if failure is None and tried:
                if pause is not None:
                    self._say(log.info, "session_store_recovered", written=waited)
                owed, pause = [], None
            elif failure is not None:
                self.failing = True
                # Whoever came while the file did not answer gets the same answer, not a wait of its own.
                late = self._take(0, None)
                batch += late
                writes += [work for work in late if work.kind is not Kind.READ]
                self._fail([work for work in writes if work.kind is Kind.ASK], failure)
                owed = [work for work in writes if work.owed]
                if pause is None:
                    self._say(log.error, "session_store_failed", error=str(failure), owed=len(owed))
                pause = min(pause * 2, LONGEST_PAUSE_S) if pause else FIRST_PAUSE_S
            self._answer([self._run(connection, work) for work in batch if work.kind is Kind.READ])
        if owed and failure:
            self._say(log.error, "session_store_lost_writes", error=str(failure), lost=len(owed))
            self._fail(owed, failure)

    def _take(self, wait_s: float | None, limit: int | None) -> list[Work]:
        """What waits, up to about `limit`; waits `wait_s` for the first, None for ever."""
        taken: list[Work] = []
        try:
            while limit is None or len(taken) < limit:
                works = self._queue.get(timeout=0 if taken else wait_s)
                if works is None:
                    self._deadline = time.monotonic() + self._close_s
                    break
                taken += works
        except queue.Empty:
            pass
        return taken

    def _commit_all(
        self, connection: sqlite3.Connection, writes: list[Work]
    ) -> tuple[list[Work], StoreFailed | None]:
        """Commits in groups, in order, until one fails: what is left then, and why."""
        for at in range(0, len(writes), GROUP_LIMIT):
            failure = self._commit(connection, writes[at : at + GROUP_LIMIT])
            if failure is not None:
                return writes[at:], failure
        return [], None

    def _commit(self, connection: sqlite3.Connection, writes: list[Work]) -> StoreFailed | None:
        """Runs a group as one transaction and answers it; or leaves the file and all futures as they were."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            answers = [
                self._run(connection, work) for work in writes if work.owed or not work.future.cancelled()
            ]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back(connection)
            return StoreFailed(f"the session store {self._name} does not answer: {error}")
        self.failing = False
        self._answer(answers)
        return None

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        if not connection.in_transaction:  # some errors roll back by themselves
            return
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._say(log.error, "session_store_rollback_failed", error=str(error))

    def _run(self, connection: sqlite3.Connection, work: Work) -> Answer:
        """The answer of one operation. Raises sqlite3.Error where it is the file's, in a transaction."""
        try:
            return work.future, work.run(connection), None
        except sqlite3.Error as error:
            if work.kind is not Kind.READ and not (
                isinstance(error, OWN_FAULT) and connection.in_transaction
            ):
                raise
            failure: Exception = StoreFailed(f"the session store {self._name} refused: {error}")
        except Exception as error:  # noqa: BLE001 - the edge of one operation: it ends that, not the thread
            failure = error
        if work.owed:
            self._say(log.error, "session_store_write_refused", error=str(failure))
        return work.future, None, failure

    def _fail(self, works: list[Work], failure: StoreFailed) -> None:
        # Each its own exception: they are raised in different tasks.
        self._answer([(work.future, None, StoreFailed(str(failure))) for work in works])

    def _say(self, how: Callable[..., object], event: str, **details: object) -> None:
        # From the loop: a log that cannot be written must not end the thread.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(partial(how, event, **details))

    def _answer(self, answers: list[Answer]) -> None:
        if not answers:
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is left to be told
            self._loop.call_soon_threadsafe(_deliver, answers)


def _deliver(answers: list[Answer]) -> None:
    for future, value, failure in answers:
        if future.done():  # cancelled meanwhile
            continue
        if failure is None:
            future.set_result(value)
        else:
            future.set_exception(failure)
