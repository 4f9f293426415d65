# SPDX-License-Identifier: BSD-2-Clause
"""The relay's fast case in Python, as _accelerator.c has it in C: sockets are read without the loop.

What libuv and asyncio do for a socket that is ready costs as much as reading it. Here all sockets are behind
one epoll descriptor, which the loop watches as one, and a chunk that holds nothing but plain frames of sound
goes from one socket to the other. Whatever is not plain (a control frame, a short frame to look at, a
fragment, half a header, an error, a socket that does not take all) goes to the relay's `Side` exactly as it
was read, with no state changed. Linux only, as epoll is; elsewhere, and over TLS, transports remain.
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
"""Not all that are ready: what has just been written to is still in the processor's cache when its answer
comes, if that is soon."""

LOOKS_A_TURN: Final = 8
"""How often the loop looks before anything else gets a turn."""

ALARM_S: Final = 0.002
"""How often the alarm rings while somebody stays. Where no timer is due so soon, the kernel stops its clock
whenever the processor has nothing to do, and starts it anew, which costs a quarter of a wake-up."""

FEW: Final = 8
"""So much is worth another look before the next rest; less may wait for it, and for company."""

POSSIBLE: Final = hasattr(select, "epoll")

EPOLLIN: Final = select.EPOLLIN if POSSIBLE else 0
_EDGES: Final = EPOLLIN | select.EPOLLRDHUP | select.EPOLLET if POSSIBLE else 0
"""A socket is reported once for what has come, and not looked at again by the next wait."""


QUIETLY: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # enumerations cost as much as the call
FIN_TEXT: Final = 0x81
FIN_BINARY: Final = 0x82
MASKED: Final = 0x80
_NOT_PLAIN: Final = 1 << 63  # longer than any message may be


class Counters:
    """What a FrameScanner keeps, where an accelerator can reach it."""

    __slots__ = ("bytes", "frames", "inspect_below", "left", "masked", "max_payload", "simple")

    left: int
    frames: int
    bytes: int
    max_payload: int
    inspect_below: int
    masked: bool
    simple: bool


class EpollSet:
    """The sockets that pumps read."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._alarm = TimerFd()  # ends a stay: it has no lane
        self._epoll.register(self._alarm.fileno(), _EDGES)
        self._lanes: list[_Lane | None] = [None] * (
            self._alarm.fileno() + 1
        )  # by descriptor: no dict to look through
        self._rested_at = 0.0

    def fileno(self) -> int:
        """The descriptor that is readable when a source is."""
        return self._epoll.fileno()

    def ready(self) -> None:
        """Reads the sources that are readable: all of them, or so many that the loop should have a turn."""
        for _ in range(LOOKS_A_TURN):
            if self._read(0, 0.0) < EVENTS_AT_ONCE:
                break

    def stay(self, seconds: float, rest_s: float = 0.0) -> bool:
        """Reads them as they become readable, for so many seconds; whether any did.

        `rest_s`: no more often than that, but for answers that come while much is passed on; then nobody says
        whether any did. A stay's end comes by one alarm, and no wait has a time of its own.
        """
        until = time.monotonic() + seconds
        if not rest_s:
            return self._wait(until)
        while (now := time.monotonic()) < until:
            if (left := self._rested_at + rest_s - now) > 0:
                time.sleep(left)
            self._rested_at = time.monotonic()
            due = self._rested_at + rest_s
            while self._read(0, 0.0) >= FEW and time.monotonic() < due:
                pass
        return True

    def add(self, source: int, lane: _Lane) -> None:
        """Reads one more, as its lane says. `source`: its descriptor."""
        self._lanes += [None] * (source + 1 - len(self._lanes))
        self._lanes[source] = lane
        self._epoll.register(source, _EDGES)

    def remove(self, source: int) -> None:
        """To be called before the descriptor is closed."""
        self._lanes[source] = None
        self._epoll.unregister(source)

    def _wait(self, until: float) -> bool:
        any_came = False
        while True:
            now = time.monotonic()
            due_s = min(until - now, ALARM_S)
            self._alarm.set(due_s)
            any_came |= self._read(-1, now + due_s) > 1  # and the alarm
            if time.monotonic() >= until:
                return any_came

    def _read(self, wait_s: float, until: float) -> int:
        """Reads what becomes readable, at least once; how much there was, the alarm included."""
        read = 0
        while events := self._epoll.poll(wait_s, EVENTS_AT_ONCE):
            left = iter(events)
            while length_hint(left):
                try:
                    self._pass_on(left)
                except Exception as error:  # noqa: BLE001 - an edge: it must end nobody else's turn
                    report = {"message": "a pump", "exception": error}
                    asyncio.get_running_loop().call_exception_handler(report)
            read += len(events)
            if time.monotonic() >= until:
                break
        return read

    def _pass_on(self, events: Iterator[tuple[int, int]]) -> None:  # noqa: PLR0912 - see below
        """The hot path: from one socket to the other. A call of Python for each chunk would be 2 % of all."""
        lanes = self._lanes
        for source, what in events:
            lane = lanes[source]
            if lane is None:  # the alarm; and one pump's end may be another's
                continue
            pump, scanner, recv, send, mask_bit, head_bytes = lane
            try:
                chunk = recv(CHUNK_BYTES, QUIETLY)
            except BlockingIOError:
                continue
            except OSError:
                chunk = b""
            size = len(chunk)
            if what != EPOLLIN or size == CHUNK_BYTES:  # something was left: it is to be told again
                self._epoll.modify(source, _EDGES)
            if not pump.direct or not scanner.simple or not size:
                pump.on_chunk(chunk)
                continue
            # Whether the chunk is all plain frames (RFC 6455 §5.2); only then it is counted.
            at, frames = scanner.left, 0
            while at < size:
                body = at + head_bytes
                length = chunk[at + 1] ^ mask_bit if body + 2 <= size else _NOT_PLAIN
                if length == 126:
                    body += 2
                    length = chunk[at + 2] << 8 | chunk[at + 3]
                elif length > 125:
                    length = _NOT_PLAIN
                if (
                    not scanner.inspect_below <= length <= scanner.max_payload
                    or not FIN_TEXT <= chunk[at] <= FIN_BINARY
                ):
                    pump.on_chunk(chunk)
                    break
                at = body + length
                frames += 1
            else:
                scanner.left = at - size
                scanner.frames += frames
                scanner.bytes += size
                try:
                    sent = send(chunk, QUIETLY)
                except OSError:  # also where it is broken: its own reading side finds that out
                    sent = 0
                if sent != size:
                    pump.on_unsent(chunk[sent:])


class Pump:
    """One direction of a relay: plain frames go from `source` to `sink`, all else to `on_chunk` as it came.

    `on_chunk` is called with b"" at the end of the stream, and `on_unsent` with bytes that are through, but
    that the other socket did not take. `walker` counts what goes by.
    """

    __slots__ = ("_lane", "_source", "_sources", "direct", "on_chunk", "on_unsent", "reading")

    def __init__(
        self,
        sources: EpollSet,
        scanner: Counters,
        source: socket.socket,
        sink: socket.socket,
        *,
        on_chunk: Callable[[bytes], None],
        on_unsent: Callable[[bytes], None],
    ) -> None:
        self._sources = sources
        self._source = source.fileno()
        self.on_chunk = on_chunk
        self.on_unsent = on_unsent
        mask_bit, key_bytes = (MASKED, 4) if scanner.masked else (0, 0)
        self._lane: _Lane = self, scanner, source.recv, sink.send, mask_bit, 2 + key_bytes
        self.direct = True
        """Whether plain frames may go by themselves."""
        self.reading = False

    def resume(self) -> None:
        """Reads from now on."""
        if not self.reading:
            self._sources.add(self._source, self._lane)
            self.reading = True

    def pause(self) -> None:
        """Reads no more; to be called before the source is closed."""
        if self.reading:
            self.reading = False
            self._sources.remove(self._source)


_Lane = tuple[Pump, Counters, Callable[..., bytes], Callable[..., int], int, int]
"""What a chunk needs on its way, in one place: much of the cost is that what is apart has left the cache."""
