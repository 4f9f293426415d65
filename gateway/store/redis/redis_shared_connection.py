# SPDX-License-Identifier: BSD-2-Clause
"""One connection for the scripts of a worker: each is sent at once, behind those that are not answered yet.

A pool lends a connection to one command until its answer is there, and that costs a command more than
everything else of it. Here a command is one write, and an answer is taken as it is read. It is for the good
case: whatever goes wrong closes this connection, and the caller tries again through the pool, which knows
what to do about fail-overs, slots that moved, and servers that are just starting.

redis-py connects (addresses, TLS, passwords, Sentinel); then the transport gets this protocol. Nothing of
that is promised by redis-py, so its range is pinned, and test_redis_shared_connection.py tests the hand-over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import hiredis
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError

RECONNECT_PAUSE_S: Final = 0.25
"""The least time after an attempt to connect that failed."""

TRIES: Final = 3
"""How often a command is sent over a connection that is lost before the answer; others share that fate."""


class NotSharedError(RedisError):
    """The command was not sent, or was refused, or its answer is lost: it may have been done."""


class _LostError(Exception):
    """The connection was closed before the answer came."""


class SharedConnection:
    """A connection that many commands use at the same time. Belongs to one event loop."""

    def __init__(self, make: Callable[[], Any], limit_s: float) -> None:
        """`make`: returns a connection of redis-py that is not connected yet.

        `limit_s`: seconds that connecting may take, and an answer; then the connection is closed.
        """
        self._make = make
        self._limit_s = limit_s
        self._answers: _Answers | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._tried_at = float("-inf")
        self._is_closed = False

    def connect(self) -> None:
        """Begin to connect, unless there is a connection or an attempt was made just now. Returns at once."""
        loop = asyncio.get_running_loop()
        is_due = loop.time() - self._tried_at >= RECONNECT_PAUSE_S
        if self._connecting is None and self._answers is None and is_due and not self._is_closed:
            self._tried_at = loop.time()
            self._connecting = loop.create_task(self._connect())

    async def close(self) -> None:
        """Close the connection for good. What is not answered fails with NotSharedError."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
        self.drop()

    async def ask(self, *words: str | bytes | int | float) -> Any:
        """Return the answer of one command.

        Raises NotSharedError if there is no connection, or none any more, or if the server refuses; but
        NoScriptError and OutOfMemoryError, which another connection would get too.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(TRIES):
            answers = await self._connected()
            try:
                return await answers.ask(words)
            except (NoScriptError, OutOfMemoryError):
                raise
            except ResponseError as error:
                self.drop()  # this server is perhaps not, or not any more, the one that does such things
                raise NotSharedError(str(error)) from None
            except _LostError:
                if loop.time() - began >= self._limit_s / 2:  # it was waited for long enough
                    break
        raise NotSharedError("the connection is lost")

    def send_only(self, *words: str | bytes | int | float) -> bool:
        """Send a command whose answer nobody wants. Return False, and send nothing, without a connection."""
        answers = self._answers
        if answers is None or answers.is_lost:
            return False
        answers.send(words, None)
        return True

    def drop(self) -> None:
        """Close the connection; the next command has another made."""
        if self._answers is not None:
            self._answers.close()
            self._answers = None

    async def _connected(self) -> _Answers:
        """Return the connection, made anew if it is lost. Raises NotSharedError if that fails."""
        if self._answers is not None and not self._answers.is_lost:
            return self._answers
        self._answers = None
        self.connect()
        if self._connecting is not None:
            await asyncio.wait([self._connecting])  # it may be cancelled by `close`, and we by ours
        if self._answers is None:
            raise NotSharedError("not connected")
        return self._answers

    async def _connect(self) -> None:
        connection = self._make()
        try:
            async with asyncio.timeout(self._limit_s):
                await connection.connect()
            answers = _Answers(connection, self._limit_s)
            connection._writer.transport.set_protocol(answers)
            self._answers = answers
            self._tried_at = float("-inf")  # should it be lost, there is no need to wait
        except (RedisError, OSError, TimeoutError):
            # Whoever asks next goes through the pool, and has another attempt made.
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
        finally:
            self._connecting = None


class _Answers(asyncio.Protocol):
    """The protocol of a connection that redis-py has made: answers come in the order of the commands."""

    def __init__(self, connection: Any, limit_s: float) -> None:
        self._connection = connection
        self._transport: asyncio.Transport = connection._writer.transport
        self._limit_s = limit_s
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace", replyError=_error)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, asyncio.Future[Any] | None]] = deque()
        self._overdue: asyncio.TimerHandle | None = None
        self.is_lost = False

    def ask(self, words: tuple[str | bytes | int | float, ...]) -> asyncio.Future[Any]:
        """Send a command; the future gets its answer, or an exception as of `SharedConnection.ask`."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        self.send(words, answer)
        return answer

    def send(self, words: tuple[str | bytes | int | float, ...], answer: asyncio.Future[Any] | None) -> None:
        """Send a command; None if nobody waits for its answer."""
        due_at = self._loop.time() + self._limit_s
        self._waiting.append((due_at, answer))
        if self._overdue is None:
            self._overdue = self._loop.call_at(due_at, self._look_for_overdue)
        self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub says: one

    def close(self) -> None:
        """Close the connection; what is not answered fails."""
        self.is_lost = True
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
        self._transport.abort()
        self._connection._close()
        while self._waiting:
            self._answer(_LostError())

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not False:
                self._answer(answer)
        except (hiredis.ProtocolError, IndexError):  # no Redis, or more answers than commands
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()

    def _answer(self, answer: Any) -> None:
        _, waiting = self._waiting.popleft()
        if waiting is None or waiting.done():  # nobody waits, or not any more
            return
        if isinstance(answer, Exception):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    def _look_for_overdue(self) -> None:
        self._overdue = None
        if not self._waiting:
            return
        due_at = self._waiting[0][0]
        if self._loop.time() >= due_at:
            self.close()
        else:
            self._overdue = self._loop.call_at(due_at, self._look_for_overdue)


def _error(words: str) -> ResponseError:
    if words.startswith("NOSCRIPT"):
        return NoScriptError(words)
    return OutOfMemoryError(words) if words.startswith("OOM") else ResponseError(words)
