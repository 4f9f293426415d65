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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Final, TypeVar, cast

import structlog
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from gateway.store.interface import StoreFailed
from gateway.store.redis.redis_address import RedisAddress
from gateway.store.redis.redis_connection import connect
from gateway.store.redis.redis_locator import RedisLocator
from gateway.store.redis.redis_shared_connection import NotSharedError, SharedConnection

log = structlog.get_logger(__name__)

BUDGET_S: Final = 1.8
"""Seconds within which a step is done, all tries included: whoever waits for it may have two (Telnyx's
webhooks, docs/reference/carriers.md).
"""

SOCKET_S: Final = 0.8
"""Seconds that one try waits for its connection, and for its answer."""

RETRIES: Final = 1
RETRY_PAUSE_S: Final = 0.02

ELSEWHERE_PAUSE_S: Final = 0.05
"""The pause before a command that another server has to do is sent to that one."""

CONNECTIONS: Final = 32

COMMANDS_AT_ONCE: Final = 500

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
"""The pauses between two tries to write what is owed; they double."""

NO_REPLICAS: Final = "NOREPLICAS"
"""The answer of a primary that no replica follows, where that forbids writes: another may be the primary now.
"""

Arguments = Sequence[str | bytes | int | float]

Step = TypeVar("Step", bound=Callable[..., Coroutine[Any, Any, Any]])


@dataclass(frozen=True, slots=True)
class Script:
    """A script, by its text; the server knows it by its hash."""

    text: str
    sha: str


class RedisClient:
    """Runs commands and scripts of one worker. Belongs to one event loop."""

    def __init__(self, address: RedisAddress, close_s: float) -> None:
        """`close_s`: how long `close` tries to write what is owed."""
        self.address = address
        self.name = address.name
        self.locator = RedisLocator(address, SOCKET_S)
        self._close_s = close_s
        self._redis = connect(
            address,
            self.locator,
            # A pool without a limit opens a connection for each caller of a bad minute; redis-py's default
            # raises at its limit instead of waiting.
            max_connections=CONNECTIONS,
            timeout=BUDGET_S,
            socket_timeout=SOCKET_S,
            socket_connect_timeout=SOCKET_S,
            retry=Retry(ConstantBackoff(RETRY_PAUSE_S), RETRIES),
            client_name="patchbay",
        )
        self._shared = SharedConnection(self._redis.connection_pool.make_connection, SOCKET_S)
        self._pending: deque[_PendingWrite] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self._written = asyncio.Event()
        self._written.set()
        self._is_open = False
        self._deadline: float | None = None
        self.failing = False
        self._reported_failing = False
        self._silent_since: float | None = None  # loop time

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
        # A server that has been away for so long already is not waited for once more.
        away_s = 0.0 if self._silent_since is None else _loop_time() - self._silent_since
        self._deadline = _loop_time() + max(0.0, self._close_s - away_s)
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

        Raises as `run`, for each COMMANDS_AT_ONCE of them.
        """
        self._check_open()
        answers: list[Any] = []
        for at in range(0, len(commands), COMMANDS_AT_ONCE):
            page = commands[at : at + COMMANDS_AT_ONCE]
            answers += await self._bounded(partial(_pipeline, page), is_write=False)
        return answers

    async def script(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Arguments,
        *,
        settle: bool = False,
        until: float | None = None,
    ) -> Any:
        """Return the answer of a script. Raises as `run`.

        `settle`: what is owed is written before. `until`: loop time of an earlier end, see `budget_end`.
        """
        self._check_open()
        command = partial(_evaluate, self._shared, script, keys, arguments)
        return await self._bounded(command, settle=settle, until=until)

    async def run_late(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Do the same as `run`, also while the client closes: for what is owed."""

        async def command(redis: Any) -> Any:
            return await getattr(redis, name)(*arguments, **options)

        return await self._bounded(command, is_write=False)

    async def script_late(self, script: Script, keys: Sequence[str], arguments: Arguments) -> Any:
        """Do the same as `script`, also while the client closes: for what is owed."""
        return await self._bounded(partial(_evaluate, self._shared, script, keys, arguments))

    def publish(self, channel: str, message: str) -> None:
        """Publish a message behind what is owed, at most once. Returns at once, raises nothing."""
        words = "PUBLISH", channel, message.encode("utf-8", "replace")
        if self._pending or not self._shared.send_only(*words):
            self.write_later(lambda: self._bounded(partial(_say, self._shared, words)), is_durable=False)

    async def relocate(self) -> None:
        """Let each connection that is not in use ask where to before it is used again."""
        self._shared.drop()
        await self._redis.connection_pool.disconnect(inuse_connections=False)

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
            raise self._failed("")
        async with self.budget():
            await asyncio.shield(self._pending[-1].settled)

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

    @contextlib.asynccontextmanager
    async def budget(self) -> AsyncIterator[None]:
        """Raise StoreFailed if what is done in it takes longer than BUDGET_S."""
        try:
            async with asyncio.timeout(BUDGET_S):
                yield
        except TimeoutError:
            raise self._failed(" in time") from None

    def _failed(self, words: str) -> StoreFailed:
        """Return the failure of a command, and say once that there are some."""
        failure = StoreFailed(f"the session store {self.name} does not answer{words}")
        failure.is_reported = True
        if self._silent_since is None:
            self._silent_since = _loop_time()
            log.error("session_store_failed", error=str(failure), owed=self.pending_writes)
        return failure

    @property
    def is_silent(self) -> bool:
        """Whether the last command failed; a line of the log says so."""
        return self._silent_since is not None

    async def _bounded(
        self,
        command: Callable[[Any], Awaitable[Any]],
        *,
        settle: bool = False,
        until: float | None = None,
        is_write: bool = True,
    ) -> Any:
        """Return the answer of a command. `is_write`: it shows that the server takes writes."""
        task = asyncio.current_task()
        cancelling = task.cancelling() if task is not None else 0
        elsewhere: Exception | None = None
        try:
            async with asyncio.timeout_at(until or budget_end()):
                if settle and self._pending:
                    await self.settled()
                while True:
                    try:
                        answer = await command(self._redis)
                        break
                    except ResponseError as error:
                        elsewhere = error
                        await self._look_elsewhere(error)
        except TimeoutError:
            words = f": {_words(elsewhere)}" if elsewhere is not None else " in time"
            raise self._failed(words) from None
        except ResponseError as error:  # it answers, but not so: one that is full, or forbids something
            raise StoreFailed(f"the session store {self.name} does not answer: {_words(error)}") from None
        except (RedisError, OSError) as error:
            raise self._failed(f": {_words(error)}") from None
        if self._silent_since is not None and is_write:
            self._silent_since = None
            log.info("session_store_recovered", written=self.pending_writes)
        if task is not None and task.cancelling() > cancelling:
            raise asyncio.CancelledError  # redis-py 8.1 loses one that comes before it has sent the command
        return answer

    async def _look_elsewhere(self, error: ResponseError) -> None:
        """Prepare to send a command to another server. Raises `error` if no other would answer better."""
        match error:
            case MovedError():
                self.locator.moved(error)
                await self.relocate()
            case TryAgainError() | AskError():
                # The slot is on its way from one node to another. A script has keys on both, or on none, so
                # nobody can run it until all are there.
                await asyncio.sleep(ELSEWHERE_PAUSE_S)
            case ReadOnlyError() | ClusterDownError():
                await self._leave_server()
            case _ if str(error).startswith(NO_REPLICAS):
                await self._leave_server()
            case _:
                raise error

    async def _leave_server(self) -> None:
        if self.locator.current is not None:
            self.locator.failed(self.locator.current)
        await self.relocate()
        await asyncio.sleep(ELSEWHERE_PAUSE_S)

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
                if not self.failing and not failure.is_reported:
                    log.error("session_store_failed", error=str(failure), owed=self.pending_writes)
                    self._reported_failing = True
                self.failing = True
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S) if pause_s else FIRST_PAUSE_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._closing()
            except Exception as fault:  # noqa: BLE001 - the edge of one write: it ends that, and not the others
                log.error("session_store_write_refused", error=str(fault))
                self._done(None, fault)
            else:
                if self._reported_failing:
                    log.info("session_store_recovered", written=self.pending_writes)
                self.failing, self._reported_failing, pause_s = False, False, 0.0
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


def budget_end() -> float:
    """Return the loop time at which a step that begins now has to be done."""
    return _loop_time() + BUDGET_S


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def within_budget(step: Step) -> Step:
    """Make a method of several commands one step, whose budget they share. The object has a `_client`."""

    @wraps(step)
    async def bounded(self: Any, *arguments: Any, **options: Any) -> Any:
        async with self._client.budget():
            return await step(self, *arguments, **options)

    return cast(Step, bounded)


async def _pipeline(commands: Sequence[Sequence[Any]], redis: Any) -> list[Any]:
    async with redis.pipeline(transaction=False) as pipeline:
        for name, *arguments in commands:
            pipeline.execute_command(name, *arguments)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)  # which would reword the errors
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
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
    if isinstance(error, TryAgainError | AskError):
        return "its slot is on the way to another node of the cluster"
    return str(error) or type(error).__name__
