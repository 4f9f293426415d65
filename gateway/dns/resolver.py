# SPDX-License-Identifier: BSD-2-Clause
"""The addresses of host names, looked up by the system's resolver, each name in a thread of its own.

`getaddrinfo` blocks, for half a minute where a name server does not answer, and an event loop runs it in a
few threads that all names share (uvloop: four). Names that hang would then stop the look-up of every other
name. Here a name has one thread at most, the last good addresses serve while a new answer is awaited (RFC
8767), and names that fail may take only a small part of the threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import queue
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Final

import structlog

log = structlog.get_logger(__name__)

STALE_S: Final = 86_400.0
"""Seconds for which an old answer serves while there is no new one (RFC 8767 §5: one to three days).

Otherwise every caller gets a new answer, as from `getaddrinfo`, which does not tell the record's TTL. Callers
that come while a look-up of the name runs share it.
"""

STALE_WAIT_S: Final = 0.5
"""Seconds that a caller waits for a new answer where there is an old one."""

LOOKUP_S: Final = 5.0
"""Seconds that a caller waits for the first answer. The look-up itself cannot be ended, and goes on."""

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 15.0
"""The pause after a look-up that was overdue and then failed; it doubles each time. Callers get its error
meanwhile. One that failed at once cost nothing, and is repeated at once.
"""

_MAX_DOUBLINGS: Final = 8

MAX_LOOKUPS: Final = 256
"""Look-ups that may run at the same time, each in a thread."""

MAX_FAILING_LOOKUPS: Final = 32
"""How many of them may be of names that have failed the last time or are overdue."""

MAX_IDLE_THREADS: Final = 4

MAX_NAMES: Final = 4096
"""Names that are remembered."""

_NO_SUCH_NAME: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})

Lookup = Callable[[str], Sequence[str]]
"""Returns the addresses of a name, the preferred one first. Raises OSError. Runs in a thread, and may block.
"""


def system_lookup(host: str) -> Sequence[str]:
    """Return the addresses of a name as the system knows them (getaddrinfo(3)). Raises OSError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # a label of more than 63 characters
        raise socket.gaierror(socket.EAI_NONAME, "this is no host name") from None
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


@lru_cache(MAX_NAMES)
def is_address(host: str) -> bool:
    """Return True if a host is an IP address and needs no look-up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _Name:
    """One name: its last answer, and the look-up that runs."""

    __slots__ = (
        "addresses",
        "answered_at",
        "began_at",
        "error",
        "failures",
        "is_overdue",
        "lookup",
        "retry_at",
    )

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()  # of the last answer
        self.answered_at = 0.0
        self.lookup: asyncio.Future[None] | None = None  # done when the one that runs has ended
        self.began_at = 0.0  # of that look-up
        self.is_overdue = False  # that look-up has run for longer than LOOKUP_S
        self.failures = 0  # since the last answer
        self.error: OSError | None = None  # of the last look-up, if it failed
        self.retry_at = 0.0  # before that time no other look-up begins


class _Threads:
    """Threads, as many as have something to do at the same time; a few of them are kept for the next time.

    They are daemons, so that one that hangs keeps no process from its end. That is why this is no
    ThreadPoolExecutor, whose threads are waited for.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def run(self, task: Callable[[], None]) -> None:
        """Run a task in a thread that has nothing else to do. Raises RuntimeError if none can be started."""
        with self._lock:
            has_idle = self._idle > 0
            self._idle -= has_idle
        if has_idle:
            self._tasks.put(task)
        else:
            threading.Thread(target=self._work, args=(task,), name="names", daemon=True).start()

    def _work(self, task: Callable[[], None]) -> None:
        while True:
            task()
            with self._lock:
                if self._idle >= MAX_IDLE_THREADS:
                    return
                self._idle += 1
            task = self._tasks.get()


class Resolver:
    """The names of one worker. Its public methods belong to one event loop; `resolver_of` has it."""

    def __init__(self, lookup: Lookup = system_lookup, now: Callable[[], float] = time.monotonic) -> None:
        """`now`: seconds of a clock that does not go back."""
        self.lookup = lookup
        self._now = now
        self._threads = _Threads()
        self._names: dict[str, _Name] = {}
        self._running: dict[str, _Name] = {}  # those with a look-up

    async def resolve(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a host, the preferred one first; at least one.

        Waits LOOKUP_S at most, and STALE_WAIT_S where there is an old answer. Raises socket.gaierror if the
        name does not exist, if it could not be looked up, or if there is no answer in time.
        """
        if is_address(host):
            return (host,)
        name = self._names.get(host) or self._add(host)
        if name.lookup is None and self._now() >= name.retry_at:
            self._start(host, name)
        if name.lookup is not None:
            limit_s = STALE_WAIT_S if self._has_old_answer(name) else LOOKUP_S
            if (wait_s := name.began_at + limit_s - self._now()) > 0:
                await asyncio.wait((name.lookup,), timeout=wait_s)
        return self._result(host, name)

    def _result(self, host: str, name: _Name) -> tuple[str, ...]:
        if name.lookup is not None:
            self._note_overdue(host, name)
        if self._has_old_answer(name):  # or one that has just come
            return name.addresses
        if name.lookup is not None or name.error is None:
            raise socket.gaierror(socket.EAI_AGAIN, f"no answer to its name within {LOOKUP_S:g} s")
        # One exception each: they are raised in different tasks.
        raise socket.gaierror(name.error.errno, name.error.strerror or "its name was not found")

    def _has_old_answer(self, name: _Name) -> bool:
        return bool(name.addresses) and self._now() - name.answered_at < STALE_S

    def _add(self, host: str) -> _Name:
        if len(self._names) >= MAX_NAMES:
            idle = next((each for each, name in self._names.items() if name.lookup is None), None)
            if idle is not None:
                del self._names[idle]
        return self._names.setdefault(host, _Name())

    def _start(self, host: str, name: _Name) -> None:
        """Begin a look-up, unless too many run already; then the name has an error."""
        for other_host, other in self._running.items():
            self._note_overdue(other_host, other)
        failing = sum(1 for other in self._running.values() if other.failures)
        if len(self._running) >= MAX_LOOKUPS or (name.failures and failing >= MAX_FAILING_LOOKUPS):
            name.error = socket.gaierror(socket.EAI_AGAIN, "too many names wait for an answer")
            return
        loop = asyncio.get_running_loop()
        name.lookup = loop.create_future()
        name.began_at, name.is_overdue = self._now(), False
        self._running[host] = name
        try:
            self._threads.run(partial(self._look_up, loop, host, name))
        except RuntimeError:
            self._ended(host, name, (), socket.gaierror(socket.EAI_MEMORY, "there is no thread to ask in"))

    def _look_up(self, loop: asyncio.AbstractEventLoop, host: str, name: _Name) -> None:
        """Look a name up, in a thread, and give the loop the answer."""
        addresses: tuple[str, ...] = ()
        failure: OSError | None = None
        try:
            addresses = tuple(self.lookup(host))
            if not addresses:
                failure = socket.gaierror(socket.EAI_NONAME, "it has no address")
        except OSError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - the edge of the thread: it ends this look-up alone
            failure = socket.gaierror(socket.EAI_FAIL, f"looking it up failed: {type(error).__name__}")
        with contextlib.suppress(RuntimeError):  # the loop was closed, and with it all waiting tasks
            loop.call_soon_threadsafe(self._ended, host, name, addresses, failure)

    def _ended(self, host: str, name: _Name, addresses: tuple[str, ...], failure: OSError | None) -> None:
        del self._running[host]
        ended, name.lookup = name.lookup, None
        if failure is None:
            if name.failures:
                log.info("name resolved again", name=host)
            name.addresses, name.answered_at = addresses, self._now()
            name.failures, name.error, name.retry_at = 0, None, 0.0
        else:
            if failure.errno in _NO_SUCH_NAME:
                name.addresses = ()
            name.error = failure
            if name.is_overdue:
                pause_s = FIRST_PAUSE_S * 2 ** min(name.failures - 1, _MAX_DOUBLINGS)
                name.retry_at = self._now() + min(pause_s, LONGEST_PAUSE_S)
            else:
                self._note_failure(host, name, (failure.strerror or type(failure).__name__).lower())
        if ended is not None and not ended.done():
            ended.set_result(None)

    def _note_overdue(self, host: str, name: _Name) -> None:
        if not name.is_overdue and self._now() - name.began_at >= LOOKUP_S:
            name.is_overdue = True
            self._note_failure(host, name, f"no answer within {LOOKUP_S:g} s")

    def _note_failure(self, host: str, name: _Name, error: str) -> None:
        name.failures += 1
        if name.failures == 1:
            log.warning("name not resolved", name=host, error=error, old_answer=self._has_old_answer(name))


_resolvers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Resolver] = weakref.WeakKeyDictionary()


def resolver_of(loop: asyncio.AbstractEventLoop) -> Resolver:
    """Return the one Resolver of `loop`."""
    resolver = _resolvers.get(loop)
    if resolver is None:
        resolver = _resolvers[loop] = Resolver()
    return resolver
