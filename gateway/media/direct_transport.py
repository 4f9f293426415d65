# SPDX-License-Identifier: BSD-2-Clause
"""A relayed socket that is read by a `Pump` and not by a transport of the event loop.

A relay whose two sockets are plain TCP detaches them from their transports. A `Pump` (C or Python,
gateway/fastpath/) then reads the one socket and writes plain media frames to the other by itself. All other
chunks, and bytes that a socket did not take, go through a `DirectTransport`, which does for a `RelaySide`
what a transport does.

What the five variables of a DirectTransport may be together:

    state                              _closing  _pump    pump.reading  pump.direct  _unsent
    before `pump_to`                   False     None     -             -            any
    paused                             False     Pump     False         either       any
    reading, frames go to the side     False     Pump     True          False        any
    reading, plain frames skip it      False     Pump     True          True         any
    closing, waits for `_unsent`       True      either   False         either       not empty
    closing, `_close` is scheduled     True      either   False         either       empty
    closed                             True      None     -             -            empty

`pump.direct` is True only if `_passing` is (the protocol is a RelaySide, which lets plain frames pass) and
the transport that the pump writes to has nothing unsent; otherwise a frame would overtake what waits there.
`_paused` is independent: it records that the protocol was told `pause_writing`, so that it is told
`resume_writing` once.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from gateway.fastpath import pump
from gateway.fastpath.accelerator import EpollSet, Pump
from gateway.fastpath.pump import QUIETLY
from gateway.websocket.frames import FrameScanner

HIGH_WATER_BYTES = 65536
"""Unsent bytes at which a leg pauses the other: more than a second of media at 100 messages a second."""

LOW_WATER_BYTES = HIGH_WATER_BYTES // 4
_NO_PROTOCOL = asyncio.Protocol()

_epoll_sets: WeakKeyDictionary[asyncio.AbstractEventLoop, EpollSet] = WeakKeyDictionary()


class DirectTransport:
    """A stream socket for one `asyncio.Protocol`: the part of `asyncio.Transport` that a relay uses.

    Methods without a docstring do what they do in `asyncio.Transport`.
    """

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
        "_was_reset",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, own: socket.socket) -> None:
        """`own`: a connected socket that nothing else reads or writes."""
        self._socket = own
        self._loop = loop
        self._protocol = _NO_PROTOCOL
        self._pump: Pump | None = None
        self._passing = False  # the protocol lets plain frames pass without it
        self._fed_by: DirectTransport | None = None  # the transport whose pump writes to this socket
        self._feeds: DirectTransport | None = None  # the transport that this one's pump writes to
        self._unsent = bytearray()
        self._paused = False  # the protocol was told to pause writing
        self._closing = False
        self._was_reset = False  # the socket failed, and did not just end

    def pump_to(self, other: DirectTransport, scanner: FrameScanner) -> None:
        """Pass plain frames straight to `other` until `set_protocol`; `scanner` counts them.

        Reading begins with `resume_reading`.
        """
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
            self._feeds._fed_by = None  # what is still unsent there must not control this pump any more
        self._feeds, other._fed_by = other, self
        if other._unsent:  # of the relay before this one
            self._pump.direct = False  # until it is sent, so that nothing overtakes it

    # As in asyncio.Transport

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Have `protocol` receive everything from now on: plain frames do not pass without it any more."""
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
            except OSError as error:
                self._was_reset |= isinstance(error, ConnectionResetError)
                return  # the socket is broken, which its reading side reports
            if sent == len(data):
                return
            data = data[sent:]
        self._queue(data)

    def close(self) -> None:
        """Close the socket once the unsent bytes have been sent."""
        if self._closing:
            return
        self.pause_reading()
        self._closing = True
        if not self._unsent:
            self._loop.call_soon(self._close)

    def abort(self) -> None:
        """Close the socket now."""
        self.pause_reading()
        self._closing = True
        if self._unsent:
            self._unsent.clear()
            self._loop.remove_writer(self._socket.fileno())
        self._loop.call_soon(self._close)

    # What the event loop and the pump call

    def _received(self, data: bytes) -> None:
        """Give the protocol a chunk that the pump did not pass on; empty at the end of the stream."""
        if data:
            self._protocol.data_received(data)
        else:
            self._note_reset()
            self.abort()

    def _note_reset(self) -> None:
        """Note whether the stream was reset. Who reads or writes first is told; the other sees its end."""
        feed = self._fed_by
        if feed is not None and feed._pump is not None:
            self._was_reset |= feed._pump.sink_was_reset
        self._was_reset |= self._pump is not None and self._pump.was_reset

    def _queue(self, data: bytes) -> None:
        """Keep bytes that the socket did not take until it does."""
        if self._closing:
            return
        if not self._unsent:
            self._loop.add_writer(self._socket.fileno(), self._send_on)
            self._set_feed_direct(False)  # what comes meanwhile must not overtake it
        self._unsent += data
        if len(self._unsent) > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _send_on(self) -> None:
        try:
            sent = self._socket.send(self._unsent, QUIETLY)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            # EPIPE: the far end had ended its stream, or an earlier write was told of a reset.
            self._was_reset |= not isinstance(error, BrokenPipeError)
            self._note_reset()
            self.abort()
            return
        del self._unsent[:sent]
        if self._paused and len(self._unsent) <= LOW_WATER_BYTES:
            self._paused = False
            self._protocol.resume_writing()
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())
            self._set_feed_direct(True)
            if self._closing:
                self._close()

    def _set_feed_direct(self, direct: bool) -> None:
        """Allow or forbid the pump that writes to this socket to do so by itself."""
        feed = self._fed_by
        if feed is not None and feed._pump is not None:
            feed._pump.direct = direct and feed._passing

    def _close(self) -> None:
        if self._socket.fileno() < 0:
            return
        self._set_feed_direct(False)  # the descriptor's number may soon be another call's
        self._socket.close()
        self._pump = None
        self._fed_by = self._feeds = None
        protocol, self._protocol = self._protocol, _NO_PROTOCOL
        protocol.connection_lost(ConnectionResetError() if self._was_reset else None)


def detach_sockets(
    loop: asyncio.AbstractEventLoop, transports: Sequence[asyncio.Transport | DirectTransport]
) -> list[DirectTransport] | None:
    """Detach the sockets from their asyncio transports. Detached ones are returned unchanged.

    Return None, with no effect, if a socket cannot be detached: it is not plain TCP, has unsent bytes or is
    closing, or this process has no descriptors left, of which each needs one for a moment.
    """
    attached = [transport for transport in transports if not isinstance(transport, DirectTransport)]
    if not all(map(_can_detach, attached)):
        return None
    copies: dict[asyncio.Transport, socket.socket] = {}
    try:
        for transport in attached:
            original = transport.get_extra_info("socket")
            fd = os.dup(original.fileno())
            copies[transport] = socket.socket(original.family, original.type, original.proto, fileno=fd)
    except OSError:
        for copy in copies.values():
            copy.close()
        return None
    for transport in attached:
        transport.pause_reading()
        transport.close()  # closes its own descriptor; the connection lives on in the copy
    return [
        transport if isinstance(transport, DirectTransport) else DirectTransport(loop, copies[transport])
        for transport in transports
    ]


def _can_detach(transport: asyncio.Transport) -> bool:
    return (
        pump.POSSIBLE
        and transport.get_extra_info("socket") is not None  # what is translated has none
        and transport.get_extra_info("sslcontext") is None
        and not transport.is_closing()
        and transport.get_write_buffer_size() == 0
    )


def epoll_set_of(loop: asyncio.AbstractEventLoop) -> EpollSet:
    """Return the one EpollSet of `loop`, which the loop reads as one descriptor."""
    epoll_set = _epoll_sets.get(loop)
    if epoll_set is None:
        epoll_set = _epoll_sets[loop] = EpollSet()
        loop.add_reader(epoll_set.fileno(), epoll_set.ready)
    return epoll_set
