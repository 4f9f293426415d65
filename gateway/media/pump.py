# SPDX-License-Identifier: BSD-2-Clause
"""Reads the sockets of relays without a transport of the loop's for each: in Python, as _accelerator.c in C.

What libuv and asyncio do for a socket that is ready costs as much as reading it. Here all sockets are behind
one epoll descriptor, which the loop watches as one, and what is read goes straight to the relay's `Side`.
Linux only, as epoll is; elsewhere, and over TLS, the loop's transports remain.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Callable
from typing import Final

CHUNK_BYTES: Final = 65536
EVENTS_AT_ONCE: Final = 256

SILENCE_S: Final = 0.01
"""How long a stay waits for sound at most. Shorter, and the kernel sets its clock anew for each wait."""

POSSIBLE: Final = hasattr(select, "epoll")

_EDGES: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET if POSSIBLE else 0
"""A socket is reported once for what has come, and not looked at again by the next wait."""


class Counters:
    """What a Walker keeps, where an accelerator can reach it."""

    __slots__ = ("bytes", "frames", "left", "look_below", "masked", "max_payload", "simple")

    left: int
    frames: int
    bytes: int
    max_payload: int
    look_below: int
    masked: bool
    simple: bool


class Sources:
    """The sockets that pumps read."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._runs: dict[int, Callable[[int], None]] = {}

    def fileno(self) -> int:
        """The descriptor that is readable when a source is."""
        return self._epoll.fileno()

    def ready(self) -> None:
        """Reads every source that is readable."""
        self._run(self._epoll.poll(0, EVENTS_AT_ONCE))

    def stay(self, seconds: float) -> bool:
        """Reads them as they become readable, for so many seconds; whether any did."""
        until = time.monotonic() + seconds
        while events := self._epoll.poll(SILENCE_S, EVENTS_AT_ONCE):
            self._run(events)
            if time.monotonic() >= until:
                return True
        return False

    def add(self, source: int, run: Callable[[int], None]) -> None:
        """Has `run` called with what epoll says of `source`, once for all that has come."""
        self._runs[source] = run
        self._epoll.register(source, _EDGES)

    def add_again(self, source: int) -> None:
        """Asks for it once more: something was left."""
        self._epoll.modify(source, _EDGES)

    def remove(self, source: int) -> None:
        """To be called before the descriptor is closed."""
        del self._runs[source]
        self._epoll.unregister(source)

    def _run(self, events: list[tuple[int, int]]) -> None:
        runs = self._runs
        for source, what in events:
            run = runs.get(source)  # one pump's end may be another's
            if run is None:
                continue
            try:
                run(what)
            except Exception as error:  # noqa: BLE001 - an edge: it must end nobody else's turn
                asyncio.get_running_loop().call_exception_handler({"message": "a pump", "exception": error})


class Pump:
    """One direction of a relay: every chunk goes to `on_chunk`, with b"" at the end of the stream."""

    __slots__ = ("_on_chunk", "_source", "_sources", "direct", "reading")

    def __init__(
        self,
        sources: Sources,
        walker: Counters,
        source: int,
        sink: int,
        *,
        on_chunk: Callable[[bytes], None],
        on_unsent: Callable[[bytes], None],
    ) -> None:
        """`walker`, `sink` and `on_unsent` are for who passes plain frames on by itself."""
        self._sources = sources
        self._source = source
        self._on_chunk = on_chunk
        self.direct = True
        self.reading = False

    def resume(self) -> None:
        """Reads from now on."""
        if not self.reading:
            self._sources.add(self._source, self._run)
            self.reading = True

    def pause(self) -> None:
        """Reads no more; to be called before the source is closed."""
        if self.reading:
            self.reading = False
            self._sources.remove(self._source)

    def _run(self, what: int) -> None:
        try:
            chunk = os.read(self._source, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if what != select.EPOLLIN or len(chunk) == CHUNK_BYTES:
            self._sources.add_again(self._source)
        self._on_chunk(chunk)
