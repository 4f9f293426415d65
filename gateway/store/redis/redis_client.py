# SPDX-License-Identifier: BSD-2-Clause
"""The connection of one worker to its Redis server: commands that answer in time, and writes that are owed.

Two clients: one for commands, whose answer must come within BUDGET_S, and one that listens for notifications
and may be silent for ever (redis_pubsub.py). Both repeat nothing by themselves but what may run twice: the
scripts (redis_scripts.py). These go over one connection that all share (redis_shared_connection.py), and
where that fails over one of the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import NoScriptError, RedisError

from gateway.store.interface import StoreFailed
from gateway.store.redis.redis_shared_connection import NotSharedError, SharedConnection

log = structlog.get_logger(__name__)

BUDGET_S: Final = 2.0
"""Seconds within which a command is answered, all tries included; a caller waits for it."""

SOCKET_S: Final = 0.8
"""Seconds that one try waits for its connection, and for its answer."""

RETRIES: Final = 1
RETRY_PAUSE_S: Final = 0.02

CONNECTIONS: Final = 32

COMMANDS_AT_ONCE: Final = 500

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
"""The pauses between two tries to write what is owed; they double."""

Arguments = Sequence[str | bytes | int | float]


@dataclass(frozen=True, slots=True)
class Script:
    """A script, by its text; the server knows it by its hash."""

    text: str
    sha: str


class RedisClient:
    """Runs commands and scripts of one worker. Belongs to one event loop."""

    def __init__(self, url: str, close_s: float) -> None:
        """`url`: with its password. `close_s`: how long `close` tries to write what is owed."""
        self.name = name_of(url)
        self.url = url
        self._close_s = close_s
        self._redis = _connect(url)
        self._shared = SharedConnection(self._redis.connection_pool.make_connection, SOCKET_S)
        self._pending: deque[_PendingWrite] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self._written = asyncio.Event()
        self._written.set()
        self._is_open = False
        self._deadline: float | None = None
        self.failing = False

    @property
    def pending_writes(self) -> int:
        """The number of writes that are owed."""
        return sum(pending.is_durable for pending in self._pending)

    async def open(self) -> None:
        """Connect. Raises StoreFailed."""
        if self._deadline is not None:
            raise StoreFailed(f"the session store {self.name} is closed")
        self._is_open = True
        try:
            await self.run("ping")
        except StoreFailed:
            self._is_open = False
            await self._redis.aclose()
            raise
        self._shared.connect()
        self._writing = asyncio.create_task(self._write())

    async def close(self) -> None:
        """Write what is owed, for a bounded time, and disconnect. May be called twice."""
        if not self._is_open:
            return
        self._is_open = False
        self._deadline = asyncio.get_running_loop().time() + self._close_s
        self._arrived.set()
        if self._writing is not None:
            await self._writing
        await self._shared.close()
        await self._redis.aclose()

    async def run(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Return the answer of a command that may run twice, by its name in redis-py.

        Raises StoreFailed within BUDGET_S, and if the client is closed.
        """
        self._check_open()
        return await self.run_late(name, *arguments, **options)

    async def run_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the answers of commands that may run twice, sent together; they are no transaction.

        Raises as `run`.
        """
        self._check_open()
        answers: list[Any] = []
        for at in range(0, len(commands), COMMANDS_AT_ONCE):
            answers += await self._bounded(partial(_pipeline, commands[at : at + COMMANDS_AT_ONCE]))
        return answers

    async def script(self, script: Script, keys: Sequence[str], arguments: Arguments) -> Any:
        """Return the answer of a script. Raises as `run`."""
        self._check_open()
        return await self.script_late(script, keys, arguments)

    async def run_late(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Do the same as `run`, also while the client closes: for what is owed."""

        async def command(redis: Any) -> Any:
            return await getattr(redis, name)(*arguments, **options)

        return await self._bounded(command)

    async def script_late(self, script: Script, keys: Sequence[str], arguments: Arguments) -> Any:
        """Do the same as `script`, also while the client closes: for what is owed."""
        return await self._bounded(partial(_evaluate, self._shared, script, keys, arguments))

    def publish(self, channel: str, message: str) -> None:
        """Publish a message behind what is owed, at most once. Returns at once, raises nothing."""
        words = "PUBLISH", channel, message.encode("utf-8", "replace")
        if self._pending or not self._shared.send_only(*words):
            self.write_later(lambda: self._bounded(partial(_say, self._shared, words)), is_durable=False)

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreFailed(f"the session store {self.name} is closed")

    async def settled(self) -> None:
        """Wait until what was owed when this was called is written: a worker reads what it wrote.

        Raises StoreFailed if that takes longer than BUDGET_S, or fails.
        """
        if not self._pending:
            return
        if self.failing:
            raise StoreFailed(f"the session store {self.name} does not answer")
        last = self._pending[-1].settled
        try:
            async with asyncio.timeout(BUDGET_S):
                await asyncio.shield(last)
        except TimeoutError:
            raise StoreFailed(f"the session store {self.name} does not answer in time") from None

    def write_later(
        self, write: Callable[[], Awaitable[Any]], *, is_durable: bool = True
    ) -> asyncio.Future[Any]:
        """Write in the order of the calls, and if `is_durable` again until it succeeds. Returns at once.

        `write`: raises StoreFailed to be repeated.
        """
        loop = asyncio.get_running_loop()
        pending = _PendingWrite(write, loop.create_future(), loop.create_future(), is_durable)
        if not self._is_open:
            pending.future.set_exception(StoreFailed(f"the session store {self.name} is closed"))
            pending.future.exception()  # it may be ignored
            return pending.future
        self._pending.append(pending)
        self._arrived.set()
        return pending.future

    async def _bounded(self, command: Callable[[Any], Awaitable[Any]]) -> Any:
        task = asyncio.current_task()
        cancelling = task.cancelling() if task is not None else 0
        try:
            async with asyncio.timeout(BUDGET_S):
                answer = await command(self._redis)
        except TimeoutError:
            raise StoreFailed(f"the session store {self.name} does not answer in time") from None
        except (RedisError, OSError) as error:
            raise StoreFailed(f"the session store {self.name} does not answer: {_words(error)}") from None
        if task is not None and task.cancelling() > cancelling:
            raise asyncio.CancelledError  # redis-py 8.1 loses one that comes before it has sent the command
        return answer

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = 0.0
        while True:
            if not self._pending:
                if self._deadline is not None:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            pending = self._pending[0]
            try:
                answer = await pending.write()
            except StoreFailed as failure:
                if self._deadline is not None and loop.time() > self._deadline:
                    self._give_up(failure)
                    return
                if not pending.is_durable:
                    self._done(None, failure)
                    continue
                if not self.failing:
                    log.error("session_store_failed", error=str(failure), owed=self.pending_writes)
                self.failing = True
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S) if pause_s else FIRST_PAUSE_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._closing()
            except Exception as fault:  # noqa: BLE001 - the edge of one write: it ends that, and not the others
                log.error("session_store_write_refused", error=str(fault))
                self._done(None, fault)
            else:
                if self.failing:
                    log.info("session_store_recovered", written=self.pending_writes)
                self.failing, pause_s = False, 0.0
                self._done(answer, None)

    async def _closing(self) -> None:
        while self._deadline is None:
            self._arrived.clear()
            await self._arrived.wait()
        await asyncio.sleep(FIRST_PAUSE_S)

    def _done(self, answer: Any, failure: Exception | None) -> None:
        pending = self._pending.popleft()
        if not pending.settled.done():
            pending.settled.set_result(None)
        if pending.future.done():  # cancelled meanwhile
            return
        if failure is None:
            pending.future.set_result(answer)
        else:
            pending.future.set_exception(failure)
            pending.future.exception()  # it may be ignored

    def _give_up(self, failure: StoreFailed) -> None:
        if lost := self.pending_writes:
            log.error("session_store_lost_writes", error=str(failure), lost=lost)
        while self._pending:
            self._done(None, StoreFailed(str(failure)))


@dataclass(slots=True)
class _PendingWrite:
    """One write that is owed. `settled`: done when it is written or given up, whoever cancels `future`."""

    write: Callable[[], Awaitable[Any]]
    future: asyncio.Future[Any]
    settled: asyncio.Future[None]
    is_durable: bool


def name_of(url: str) -> str:
    """Return a URL as it may stand in a log: without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _connect(url: str) -> Any:
    # A pool without a limit opens a connection for each caller of a bad minute; redis-py's default raises at
    # its limit instead of waiting.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=BUDGET_S,
        socket_timeout=SOCKET_S,
        socket_connect_timeout=SOCKET_S,
        retry=Retry(ConstantBackoff(RETRY_PAUSE_S), RETRIES),
        decode_responses=True,
        protocol=2,
        client_name="patchbay",
    )
    return Redis.from_pool(pool)


async def _pipeline(commands: Sequence[Sequence[Any]], redis: Any) -> list[Any]:
    async with redis.pipeline(transaction=False) as pipeline:
        for name, *arguments in commands:
            pipeline.execute_command(name, *arguments)
        answers: list[Any] = await pipeline.execute()
        return answers


async def _evaluate(
    shared: SharedConnection, script: Script, keys: Sequence[str], arguments: Arguments, redis: Any
) -> Any:
    try:
        try:
            return await shared.ask("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except NoScriptError:  # a server that has started again, or another one
            return await shared.ask("EVAL", script.text, len(keys), *keys, *arguments)
    except NotSharedError:
        pass
    try:
        return await redis.evalsha(script.sha, len(keys), *keys, *arguments)
    except NoScriptError:
        return await redis.eval(script.text, len(keys), *keys, *arguments)


async def _say(shared: SharedConnection, words: Sequence[str | bytes], redis: Any) -> None:
    if not shared.send_only(*words):
        await redis.execute_command(*words)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
