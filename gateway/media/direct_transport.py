# SPDX-License-Identifier: BSD-2-Clause
"""A coupled leg's socket without a transport of the event loop's between it and the relay.

A relay whose two sockets are plain TCP takes them out of their transports: a `Pump`, in C or in Python, reads
the one as soon as something is there, and the accelerator's writes plain sound to the other by itself.
`DirectTransport` is what remains of a transport: it does for a `Side` what a transport does, where the
pump cannot.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from gateway.fastpath import pump
from gateway.fastpath.accelerator import EpollSet, Pump
from gateway.fastpath.pump import QUIETLY

if TYPE_CHECKING:
    from gateway.websocket.frames import FrameScanner

HIGH_WATER_BYTES = 65536
"""Unsent bytes at which a leg pauses the other: more than a second of sound at 100 messages a second."""

LOW_WATER_BYTES = HIGH_WATER_BYTES // 4
_NOBODY = asyncio.Protocol()

_sources: WeakKeyDictionary[asyncio.AbstractEventLoop, EpollSet] = WeakKeyDictionary()


class DirectTransport:
    """A stream socket for one `asyncio.Protocol`; the part of `asyncio.Transport` that a relay uses."""

    __slots__ = (
        "_closing",
        "_fed_by",
        "_feeds",
        "_loop",
        "_passing",
        "_paused",
        "_protocol",
        "_pump",
        "_socket",
        "_unsent",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, own: socket.socket) -> None:
        """`own`: connected, and nobody else's to read or write."""
        self._socket = own
        self._loop = loop
        self._protocol = _NOBODY
        self._pump: Pump | None = None
        self._passing = False  # the protocol lets the pump pass plain frames by it
        self._fed_by: DirectTransport | None = None  # whose pump writes here
        self._feeds: DirectTransport | None = None  # where ours does
        self._unsent = bytearray()
        self._paused = False  # the protocol has been told to stop writing
        self._closing = False

    def pump_to(self, other: DirectTransport, scanner: FrameScanner) -> None:
        """Lets plain frames go straight to `other`, until there is another protocol. Reads after `resume`."""
        self.pause_reading()
        self._pump = Pump(
            epoll_set_of(self._loop),
            scanner,
            self._socket,
            other._socket,
            on_chunk=self._received,
            on_unsent=other._queue,
        )
        self._passing = True
        if self._feeds is not None and self._feeds._fed_by is self:
            self._feeds._fed_by = None  # what is left to say there must not steer this one any more
        self._feeds, other._fed_by = other, self

    # What asyncio.Transport does

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """From now on `protocol` is told everything; the pump passes nothing by it any more."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol
        self._passing = False
        if self._pump is not None:
            self._pump.direct = False

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._pump is not None and self._pump.reading and not self._closing

    def resume_reading(self) -> None:
        if self._pump is not None and not self._closing:
            self._pump.resume()

    def pause_reading(self) -> None:
        if self._pump is not None:
            self._pump.pause()

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def write(self, data: bytes) -> None:
        if self._closing or not data:
            return
        if not self._unsent:
            try:
                sent = self._socket.send(data, QUIETLY)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                return  # broken: its reading side says so
            if sent == len(data):
                return
            data = data[sent:]
        self._queue(data)

    def close(self) -> None:
        """Closes once what is unsent has been sent."""
        if self._closing:
            return
        self.pause_reading()
        self._closing = True
        if not self._unsent:
            self._loop.call_soon(self._close)

    def abort(self) -> None:
        """Closes now."""
        self.pause_reading()
        self._closing = True
        if self._unsent:
            self._unsent.clear()
            self._loop.remove_writer(self._socket.fileno())
        self._loop.call_soon(self._close)

    # What the loop and the pump say

    def _received(self, data: bytes) -> None:
        """What the pump does not pass on by itself; nothing at the end of the stream."""
        if data:
            self._protocol.data_received(data)
        else:
            self.abort()

    def _queue(self, data: bytes) -> None:
        """Keeps what the socket did not take until it does."""
        if self._closing:
            return
        if not self._unsent:
            self._loop.add_writer(self._socket.fileno(), self._send_on)
            self._steer_feed(direct=False)  # what comes meanwhile must queue behind it
        self._unsent += data
        if len(self._unsent) > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _send_on(self) -> None:
        try:
            sent = self._socket.send(self._unsent, QUIETLY)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        del self._unsent[:sent]
        if self._paused and len(self._unsent) <= LOW_WATER_BYTES:
            self._paused = False
            self._protocol.resume_writing()
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())
            self._steer_feed(direct=True)
            if self._closing:
                self._close()

    def _steer_feed(self, *, direct: bool) -> None:
        feed = self._fed_by
        if feed is not None and feed._pump is not None:
            feed._pump.direct = direct and feed._passing

    def _close(self) -> None:
        if self._socket.fileno() < 0:
            return
        self._steer_feed(direct=False)  # its descriptor may soon be another call's
        self._socket.close()
        self._pump = None
        self._fed_by = self._feeds = None
        protocol, self._protocol = self._protocol, _NOBODY
        protocol.connection_lost(None)


def detach_sockets(
    loop: asyncio.AbstractEventLoop, transports: Sequence[asyncio.Transport | DirectTransport]
) -> list[DirectTransport] | None:
    """The sockets of a relay's transports, out of them; each that is out already stays as it is.

    None, with nothing done, where one of them cannot be: it is not plain TCP, has something unsent or is
    closing, or this process has no files left, of which it takes one each for a moment.
    """
    bound = [transport for transport in transports if not isinstance(transport, DirectTransport)]
    if not all(map(_possible, bound)):
        return None
    copies: dict[asyncio.Transport, socket.socket] = {}
    try:
        for transport in bound:
            theirs = transport.get_extra_info("socket")
            copy = os.dup(theirs.fileno())
            copies[transport] = socket.socket(theirs.family, theirs.type, theirs.proto, fileno=copy)
    except OSError:
        for own in copies.values():
            own.close()
        return None
    for transport in bound:
        transport.pause_reading()
        transport.close()  # closes its own descriptor; the connection lives on in ours
    return [
        transport if isinstance(transport, DirectTransport) else DirectTransport(loop, copies[transport])
        for transport in transports
    ]


def _possible(transport: asyncio.Transport) -> bool:
    return (
        pump.POSSIBLE
        and transport.get_extra_info("sslcontext") is None
        and not transport.is_closing()
        and transport.get_write_buffer_size() == 0
    )


def epoll_set_of(loop: asyncio.AbstractEventLoop) -> EpollSet:
    """The one set of sockets that a loop's pumps read."""
    sources = _sources.get(loop)
    if sources is None:
        sources = _sources[loop] = EpollSet()
        loop.add_reader(sources.fileno(), sources.ready)
    return sources
