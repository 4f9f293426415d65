# SPDX-License-Identifier: BSD-2-Clause
"""The thread that owns the SQLite connection and commits waiting operations as one group."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
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
# transaction: under load one commit serves many, and an operation that comes alone does not wait for others.
#
# Every operation writes with one statement, or with several each of which may be repeated. SQLite undoes a
# failing statement by itself, so an operation that fails for a reason of its own does not affect the others,
# and savepoints are not needed. A failure of the file (locked, full, read-only, broken) fails the whole
# group; what happens then depends on the kind:
#
#   REQUEST   a caller waits for the answer, and a late one is worthless: fails with the group
#   DURABLE   records what has already happened to a session; kept in order and retried until committed
#   DEFERRED  as DURABLE, but not urgent: it stays in the event loop until another operation comes, for
#             GATHER_S at most, because waking the thread and committing each cost more than the write
#   READ      needs no lock: run by itself after the group, so that it sees all operations before it
#
# The pending writes (DURABLE and DEFERRED) need no limit in memory here. They are written before whatever
# came after them, so while any is left no session is admitted, and each admitted session causes two of them
# or a withdrawal. FailoverStore, which admits all the same, limits them by `pending_writes`.

GROUP_LIMIT: Final = 512
"""The most operations in one transaction: other workers wait for the write lock meanwhile."""

GATHER_S: Final = 0.02
"""How long a DEFERRED write waits to share a commit; short compared with how often a state is read."""

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
"""The pause between two attempts to write pending writes; it doubles each time."""

OWN_FAULT: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
)
"""Errors of SQLite that are caused by the operation and not by the file."""

DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""Error codes of a file that needs a backup."""

T = TypeVar("T")
Answer = tuple[asyncio.Future[Any], object, Exception | None]


class Kind(Enum):
    """The treatment of an operation when the file fails; see above."""

    REQUEST = auto()
    DURABLE = auto()
    DEFERRED = auto()
    READ = auto()


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation and the future of its result. `run` runs in the writer's thread."""

    kind: Kind
    run: Callable[[sqlite3.Connection], object]
    future: asyncio.Future[Any]

    @property
    def is_retried(self) -> bool:
        """Whether the operation is retried until it is committed."""
        return self.kind is Kind.DURABLE or self.kind is Kind.DEFERRED


class Writer:
    """Runs operations on a connection in a thread of its own. Its public methods belong to one event loop."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], sqlite3.Connection],
        close_s: float,
        check: Callable[[], str] = lambda: "",
        check_mapped: Callable[[], None] = lambda: None,
    ) -> None:
        """`name`: the file, for error messages. `connect`: runs in the thread; may raise StoreFailed.

        `close_s`: how long `close` tries to write pending writes, in seconds. `check`: called before each
        transaction; raises StoreFailed if it would not reach the file, and returns an event to log, or "".
        `check_mapped`: called before any other access to the file; raises StoreFailed if that is not safe.
        """
        self._name = name
        self._connect = connect
        self._check = check
        self._check_mapped = check_mapped
        self._close_s = close_s
        self._queue: queue.SimpleQueue[Sequence[Operation] | None] = queue.SimpleQueue()  # None: close
        self._deferred: list[Operation] = []
        self._deadline: float | None = None  # set in the thread when it is to close
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._opened: asyncio.Future[None]
        self._stopped: asyncio.Future[None]
        self._accepts = False
        self.pending_writes = 0
        """The number of DURABLE and DEFERRED operations that are not committed yet. For the event loop."""
        self.failing = False
        """Whether the last write to the file failed. Set in the thread."""
        self._is_damaged = False
        """Whether a page was found damaged. What does not touch it goes on, so that failures come and go: the
        damage is logged, once, and they are not.
        """

    # In the event loop.

    async def open(self) -> None:
        """Start the thread and open the file. Raises StoreFailed; then nothing is left running."""
        if self._thread is not None:
            raise StoreFailed(f"the session store {self._name} was opened already")
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        self._stopped = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name="session-store", daemon=True)
        self._thread.start()
        try:
            await self._opened
        except asyncio.CancelledError:
            self._queue.put(None)
            raise
        self._accepts = True

    def submit(self, kind: Kind, run: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Queue an operation and return the future of its result, which may be ignored.

        The future fails with StoreFailed if the file fails or is not open, else with what `run` raised.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        future.add_done_callback(ignore_exception)
        if self._accepts:
            operation = Operation(kind, run, future)
            if operation.is_retried:
                self.pending_writes += 1
                future.add_done_callback(self._count_written)
            if kind is Kind.DEFERRED:
                self._defer(operation)
            else:
                self._enqueue(operation)
        else:
            future.set_exception(StoreFailed(f"the session store {self._name} is not open"))
        return future

    async def close(self) -> None:
        """Write what is pending, then end the thread; takes `close_s` and one busy wait at most."""
        if self._thread is None:
            return
        if self._accepts:
            self._accepts = False
            self._enqueue()
            self._queue.put(None)
        await asyncio.shield(self._stopped)
        self._thread.join()  # it ends after it has reported that it stopped

    def _defer(self, operation: Operation) -> None:
        if not self._deferred:
            self._loop.call_later(GATHER_S, self._enqueue)
        self._deferred.append(operation)

    def _enqueue(self, *operations: Operation) -> None:
        """Hand the deferred operations, and then `operations`, to the thread."""
        if self._deferred or operations:
            deferred, self._deferred = self._deferred, []
            self._queue.put([*deferred, *operations])

    def _count_written(self, _: asyncio.Future[Any]) -> None:
        self.pending_writes -= 1

    # In the thread.

    def _work(self) -> None:
        try:
            connection = self._connect()
        except Exception as failure:  # noqa: BLE001 - the edge of the thread: `open` raises it
            self._answer([(self._opened, None, failure), (self._stopped, None, None)])
            return
        try:
            self._answer([(self._opened, None, None)])
            self._serve(connection)
        finally:
            self._close(connection)
            self._accepts = False  # it is still True only if the thread itself failed
            self._fail(self._take(0, None), StoreFailed(f"the session store {self._name} has stopped"))
            self._answer([(self._stopped, None, None)])

    def _serve(self, connection: sqlite3.Connection) -> None:
        pending: list[Operation] = []
        pause_s: float | None = None
        failure: StoreFailed | None
        while self._deadline is None or (pending and time.monotonic() < self._deadline):
            batch = self._take(pause_s if self._deadline is None else FIRST_PAUSE_S, GROUP_LIMIT)
            retried = len(pending)
            writes = pending + [operation for operation in batch if operation.kind is not Kind.READ]
            tried = bool(writes)
            writes, failure = self._commit_all(connection, writes)
            if failure is None and tried:
                if pause_s is not None and not self._is_damaged:
                    self._log(log.info, "session_store_recovered", written=retried)
                pending, pause_s = [], None
            elif failure is not None:
                self.failing = True
                # Operations that came while the file did not answer fail now, not after a wait of their own.
                late = self._take(0, None)
                batch += late
                writes += [operation for operation in late if operation.kind is not Kind.READ]
                self._fail([operation for operation in writes if operation.kind is Kind.REQUEST], failure)
                pending = [operation for operation in writes if operation.is_retried]
                if pause_s is None and not self._is_damaged:
                    self._log(log.error, "session_store_failed", error=str(failure), owed=len(pending))
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S) if pause_s else FIRST_PAUSE_S
            reads = [operation for operation in batch if operation.kind is Kind.READ]
            self._answer(self._read(connection, reads))
        if pending and failure:
            self._log(log.error, "session_store_lost_writes", error=str(failure), lost=len(pending))
            self._fail(pending, failure)

    def _read(self, connection: sqlite3.Connection, reads: list[Operation]) -> list[Answer]:
        if not reads:
            return []
        try:
            self._check_mapped()
        except StoreFailed as failure:
            return [(operation.future, None, StoreFailed(str(failure))) for operation in reads]
        return [self._run(connection, operation) for operation in reads]

    def _close(self, connection: sqlite3.Connection) -> None:
        """Close the connection, or leave it to the end of the process if an access is not safe.

        SQLite would read the mapped file while it closes, also when the object is freed.
        """
        try:
            self._check_mapped()
        except StoreFailed:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        else:
            connection.close()

    def _take(self, wait_s: float | None, limit: int | None) -> list[Operation]:
        """Return what is queued, up to about `limit`; wait `wait_s` for the first, None for any time."""
        batch: list[Operation] = []
        try:
            while limit is None or len(batch) < limit:
                operations = self._queue.get(timeout=0 if batch else wait_s)
                if operations is None:
                    self._deadline = time.monotonic() + self._close_s
                    break
                batch += operations
        except queue.Empty:
            pass
        return batch

    def _commit_all(
        self, connection: sqlite3.Connection, writes: list[Operation]
    ) -> tuple[list[Operation], StoreFailed | None]:
        """Commit in groups, in order, until one fails. Return the operations that are left, and why."""
        for at in range(0, len(writes), GROUP_LIMIT):
            failure = self._commit(connection, writes[at : at + GROUP_LIMIT])
            if failure is not None:
                return writes[at:], failure
        return [], None

    def _commit(self, connection: sqlite3.Connection, writes: list[Operation]) -> StoreFailed | None:
        """Run a group as one transaction and answer it. After a failure, file and futures are unchanged."""
        try:
            if event := self._check():
                self._log(log.warning, event, file=self._name)
            connection.execute("BEGIN IMMEDIATE")
            answers = [
                self._run(connection, operation)
                for operation in writes
                if operation.is_retried or not operation.future.cancelled()
            ]
            connection.execute("COMMIT")
        except StoreFailed as failure:  # of `check`: nothing has begun
            return failure
        except sqlite3.Error as error:
            self._note_damage(error)
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
            self._log(log.error, "session_store_rollback_failed", error=str(error))

    def _note_damage(self, error: sqlite3.Error) -> None:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # of an extended code
        if code in DAMAGED and not self._is_damaged:
            self._is_damaged = True
            self._log(log.error, "session_store_damaged", file=self._name, error=str(error))

    def _run(self, connection: sqlite3.Connection, operation: Operation) -> Answer:
        """Return the answer of one operation. Raises sqlite3.Error if the file failed, in a transaction."""
        try:
            return operation.future, operation.run(connection), None
        except sqlite3.Error as error:
            if operation.kind is not Kind.READ and not (
                isinstance(error, OWN_FAULT) and connection.in_transaction
            ):
                raise
            self._note_damage(error)
            failure: Exception = StoreFailed(f"the session store {self._name} refused: {error}")
        except Exception as error:  # noqa: BLE001 - the edge of one operation: it ends that, not the thread
            failure = error
        if operation.is_retried:
            self._log(log.error, "session_store_write_refused", error=str(failure))
        return operation.future, None, failure

    def _fail(self, operations: list[Operation], failure: StoreFailed) -> None:
        # One exception each: they are raised in different tasks.
        self._answer([(operation.future, None, StoreFailed(str(failure))) for operation in operations])

    def _log(self, method: Callable[..., object], event: str, **fields: object) -> None:
        # In the event loop: a log that cannot be written must not end the thread.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(partial(method, event, **fields))

    def _answer(self, answers: list[Answer]) -> None:
        if not answers:
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed, and with it all waiting tasks
            self._loop.call_soon_threadsafe(_deliver, answers)


def _deliver(answers: list[Answer]) -> None:
    for future, value, failure in answers:
        if future.done():  # cancelled meanwhile
            continue
        if failure is None:
            future.set_result(value)
        else:
            future.set_exception(failure)
