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
from collections.abc import Callable
from typing import Final

CHUNK_BYTES: Final = 65536
EVENTS_AT_ONCE: Final = 256

SILENCE_S: Final = 0.01
"""How long a stay waits for sound at most. Shorter, and the kernel sets its clock anew for each wait."""

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
    """One direction of a relay: plain frames go from `source` to `sink`, all else to `on_chunk` as it came.

    `on_chunk` is called with b"" at the end of the stream, and `on_unsent` with bytes that are through, but
    that the other socket did not take. `walker` counts what goes by.
    """

    __slots__ = ("_hot", "_on_chunk", "_on_unsent", "_source", "_sources", "direct", "reading")

    def __init__(
        self,
        sources: Sources,
        walker: Counters,
        source: socket.socket,
        sink: socket.socket,
        *,
        on_chunk: Callable[[bytes], None],
        on_unsent: Callable[[bytes], None],
    ) -> None:
        self._sources = sources
        self._source = source.fileno()
        self._on_chunk = on_chunk
        self._on_unsent = on_unsent
        mask_bit, key_bytes = (MASKED, 4) if walker.masked else (0, 0)
        self._hot = source.recv, sink.send, walker, mask_bit, 2 + key_bytes
        self.direct = True
        """Whether plain frames may go by themselves."""
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

    # The hot path: one call of Python a chunk

    def _run(self, what: int) -> None:
        recv, send, walker, mask_bit, head_bytes = self._hot
        try:
            chunk = recv(CHUNK_BYTES, QUIETLY)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        size = len(chunk)
        if what != EPOLLIN or size == CHUNK_BYTES:
            self._sources.add_again(self._source)
        if not self.direct or not walker.simple or not size:
            self._on_chunk(chunk)
            return
        # Whether the chunk is all plain frames (RFC 6455 §5.2); only then it is counted.
        at, frames = walker.left, 0
        while at < size:
            body = at + head_bytes
            length = chunk[at + 1] ^ mask_bit if body + 2 <= size else _NOT_PLAIN
            if length == 126:
                body += 2
                length = chunk[at + 2] << 8 | chunk[at + 3]
            elif length > 125:
                length = _NOT_PLAIN
            if (
                not walker.look_below <= length <= walker.max_payload
                or not FIN_TEXT <= chunk[at] <= FIN_BINARY
            ):
                self._on_chunk(chunk)
                return
            at = body + length
            frames += 1
        walker.left = at - size
        walker.frames += frames
        walker.bytes += size
        try:
            sent = send(chunk, QUIETLY)
        except OSError:  # also where the socket is broken: its own reading side finds that out
            sent = 0
        if sent != size:
            self._on_unsent(chunk[sent:])
