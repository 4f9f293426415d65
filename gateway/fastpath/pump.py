# SPDX-License-Identifier: BSD-2-Clause
"""The relay's fast case in Python; _accelerator.c is the same in C. Sockets are read without the event loop.

What libuv and asyncio do for a readable socket costs as much as reading it. Here all sockets are behind one
epoll descriptor, which the event loop watches as one, and a chunk that holds nothing but plain media frames
is written from one socket to the other. Everything that is not plain (a control frame, a short frame to
inspect, a fragment, part of a header, an error, a socket that does not take all) goes to the RelaySide
exactly as it was read, with no state changed. Linux only, as epoll is; elsewhere, and over TLS, the event
loop's transports read.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable, Iterator
from operator import length_hint
from typing import Final

from gateway.fastpath.timer_fd import TimerFd

CHUNK_BYTES: Final = 65536
EVENTS_AT_ONCE: Final = 32
"""The number of sockets that are read together. It is small, so that a socket that was just written to is
still in the processor's cache when its answer comes."""

READS_PER_ITERATION: Final = 8
"""How often one iteration of the event loop reads while EVENTS_AT_ONCE sockets are readable each time."""

TIMER_S: Final = 0.002
"""The interval of the timer during `poll_for`. If no timer is due so soon, the kernel stops its clock while
the processor is idle and starts it again, which costs a quarter of a wake-up."""

MIN_READY: Final = 8
"""`poll_for` reads again before it sleeps if at least this many sockets were readable; fewer can wait."""

POSSIBLE: Final = hasattr(select, "epoll")

EPOLLIN: Final = select.EPOLLIN if POSSIBLE else 0
_EDGES: Final = EPOLLIN | select.EPOLLRDHUP | select.EPOLLET if POSSIBLE else 0
"""Edge-triggered: a socket is reported once for what has come, and not checked again by the next wait."""


QUIETLY: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
"""The flags of recv and send. As members of an enumeration they would cost as much as the call."""

FIN_TEXT: Final = 0x81
FIN_BINARY: Final = 0x82
MASKED: Final = 0x80
_NOT_PLAIN: Final = 1 << 63  # longer than any message may be


class Counters:
    """The fields of a FrameScanner that the fast case reads and writes; see FrameScanner."""

    __slots__ = ("bytes", "frames", "inspect_below", "left", "masked", "max_payload", "simple")

    left: int
    frames: int
    bytes: int
    max_payload: int
    inspect_below: int
    masked: bool
    simple: bool


class EpollSet:
    """The sockets that pumps read, behind one epoll descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._timer = TimerFd()  # ends `poll_for`; it has no route
        self._epoll.register(self._timer.fileno(), _EDGES)
        # By descriptor, because a list is faster than a dict.
        self._routes: list[Route | None] = [None] * (self._timer.fileno() + 1)
        self._woke_at = 0.0

    def fileno(self) -> int:
        """Return the descriptor that is readable when one of the sockets is."""
        return self._epoll.fileno()

    def ready(self) -> None:
        """Read the sockets that are readable, or as many as one iteration of the event loop should read."""
        for _ in range(READS_PER_ITERATION):
            if self._read(0, 0.0) < EVENTS_AT_ONCE:
                break

    def poll_for(self, seconds: float, coalesce_s: float = 0.0) -> bool:
        """Read the sockets as they become readable, for `seconds`. Return True if any did.

        `coalesce_s`: sleep this long between two reads, counted from the end of the sleep before; more often
        only for answers that come while many sockets are readable. The result is then always True. Without
        it one timer ends the wait, because a timeout for each wait would cost a timer each.
        """
        until = time.monotonic() + seconds
        if not coalesce_s:
            return self._wait(until)
        while (now := time.monotonic()) < until:
            if (left_s := self._woke_at + coalesce_s - now) > 0:
                time.sleep(left_s)
            self._woke_at = time.monotonic()
            due = self._woke_at + coalesce_s
            while self._read(0, 0.0) >= MIN_READY and time.monotonic() < due:
                pass
        return True

    def add(self, source: int, route: Route) -> None:
        """Read the socket with the descriptor `source` from now on."""
        self._routes += [None] * (source + 1 - len(self._routes))
        self._routes[source] = route
        self._epoll.register(source, _EDGES)

    def remove(self, source: int) -> None:
        """Read `source` no more. Call it before the descriptor is closed."""
        self._routes[source] = None
        self._epoll.unregister(source)

    def _wait(self, until: float) -> bool:
        any_came = False
        while True:
            now = time.monotonic()
            due_s = min(until - now, TIMER_S)
            self._timer.set(due_s)
            any_came |= self._read(-1, now + due_s) > 1  # and the timer
            if time.monotonic() >= until:
                return any_came

    def _read(self, wait_s: float, until: float) -> int:
        """Read what becomes readable within `wait_s` (-1: wait), again until the time `until`.

        Return the number of events, the timer included.
        """
        read = 0
        while events := self._epoll.poll(wait_s, EVENTS_AT_ONCE):
            remaining = iter(events)
            while length_hint(remaining):
                try:
                    self._pass_on(remaining)
                except Exception as error:  # noqa: BLE001 - the edge of one socket: the others are read
                    report = {"message": "a pump", "exception": error}
                    asyncio.get_running_loop().call_exception_handler(report)
            read += len(events)
            if time.monotonic() >= until:
                break
        return read

    def _pass_on(self, events: Iterator[tuple[int, int]]) -> None:  # noqa: PLR0912 - see below
        """Pass on what the source has. All in one function: one more call for each chunk would be 2 % of
        the whole cost.
        """
        routes = self._routes
        for source, what in events:
            route = routes[source]
            if route is None:  # the timer, or a pump that one before it in this loop has paused
                continue
            pump, scanner, recv, send, mask_bit, head_bytes = route
            try:
                chunk = recv(CHUNK_BYTES, QUIETLY)
            except BlockingIOError:
                continue
            except OSError:
                pump.was_reset, chunk = True, b""
            size = len(chunk)
            if what != EPOLLIN or size == CHUNK_BYTES:  # more has come: report it again
                self._epoll.modify(source, _EDGES)
            if not pump.direct or not scanner.simple or not size:
                pump.on_chunk(chunk)
                continue
            # Check that the chunk is all plain frames (RFC 6455 §5.2), and count it only then.
            position, frames = scanner.left, 0
            while position < size:
                body = position + head_bytes
                length = chunk[position + 1] ^ mask_bit if body + 2 <= size else _NOT_PLAIN
                if length == 126:
                    body += 2
                    length = chunk[position + 2] << 8 | chunk[position + 3]
                elif length > 125:
                    length = _NOT_PLAIN
                if (
                    not scanner.inspect_below <= length <= scanner.max_payload
                    or not FIN_TEXT <= chunk[position] <= FIN_BINARY
                ):
                    pump.on_chunk(chunk)
                    break
                position = body + length
                frames += 1
            else:
                scanner.left = position - size
                scanner.frames += frames
                scanner.bytes += size
                try:
                    sent = send(chunk, QUIETLY)
                except OSError as error:  # full, or broken, which its own reading side reports
                    pump.sink_was_reset |= isinstance(error, ConnectionResetError)
                    sent = 0
                if sent != size:
                    pump.on_unsent(chunk[sent:])


class Pump:
    """One direction of a relay: plain frames go from `source` to `sink`, all other chunks to `on_chunk`.

    `on_chunk` is also called with b"" at the end of the stream, and `on_unsent` with bytes of plain frames
    that `sink` did not take. `scanner` counts the plain frames. Reading begins with `resume`.
    """

    __slots__ = (
        "_epoll_set",
        "_route",
        "_source",
        "direct",
        "on_chunk",
        "on_unsent",
        "reading",
        "sink_was_reset",
        "was_reset",
    )

    def __init__(
        self,
        epoll_set: EpollSet,
        scanner: Counters,
        source: socket.socket,
        sink: socket.socket,
        *,
        on_chunk: Callable[[bytes], None],
        on_unsent: Callable[[bytes], None],
    ) -> None:
        self._epoll_set = epoll_set
        self._source = source.fileno()
        self.on_chunk = on_chunk
        self.on_unsent = on_unsent
        mask_bit, key_bytes = (MASKED, 4) if scanner.masked else (0, 0)
        self._route: Route = self, scanner, source.recv, sink.send, mask_bit, 2 + key_bytes
        self.direct = True
        """Whether plain frames may go to `sink` without `on_chunk`."""
        self.reading = False
        """Whether `source` is read."""
        self.was_reset = False
        """Whether reading `source` failed, so that its stream did not just end."""
        self.sink_was_reset = False
        """Whether a write to `sink` found it reset; a read of it then sees a plain end."""

    def resume(self) -> None:
        """Read from now on."""
        if not self.reading:
            self._epoll_set.add(self._source, self._route)
            self.reading = True

    def pause(self) -> None:
        """Read no more. Call it before `source` is closed."""
        if self.reading:
            self.reading = False
            self._epoll_set.remove(self._source)


Route = tuple[Pump, Counters, Callable[..., bytes], Callable[..., int], int, int]
"""All that a chunk needs on its way in one tuple: much of the cost is memory that has left the cache.

The pump, its scanner, `recv` of the source, `send` of the sink, the mask bit of the length byte, and the
number of header bytes of a short frame."""
