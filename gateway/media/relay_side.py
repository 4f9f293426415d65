# SPDX-License-Identifier: BSD-2-Clause
"""One side of a relay: the hot path.

`RelaySide.data_received` runs once per chunk of media and creates no task, no awaitable and no object besides
the chunk. Everything that happens once per call is in gateway/media/relay.py and teardown.py. The caller is a
`Pump`, or a transport if TLS is in use; with the accelerator only chunks that are not plain media frames come
here (gateway/media/direct_transport.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.media.direct_transport import HIGH_WATER_BYTES, DirectTransport
from gateway.media.disconnect import disconnect_of
from gateway.media.leg import Leg
from gateway.media.ports import SideObserver
from gateway.websocket import frames
from gateway.websocket.frames import FrameError


class RelaySide(asyncio.Protocol):
    """One leg while it is relayed: what it reads is written to `other`.

    The four facts `close_seen`, `close_sent`, `lost` and `stall` hold for this side alone and occur in any
    order, so they are no part of the relay's state (gateway/media/relay_states.py).
    """

    __slots__ = (
        "client",
        "close_seen",
        "close_sent",
        "lost",
        "observer",
        "other",
        "scanner",
        "stall",
        "transport",
        "write_other",
    )

    min_inspect_below = 0
    """The `inspect_below` that this kind of side needs all the time; see FrameScanner."""

    other: RelaySide
    write_other: Callable[[bytes], None]

    def __init__(self, observer: SideObserver[RelaySide], leg: Leg) -> None:
        self.observer = observer
        self.transport: asyncio.Transport | DirectTransport = leg.transport
        self.scanner = leg.scanner
        self.client = leg.client
        self.close_seen = False  # the far end has sent its close frame
        self.close_sent = False  # the far end has been sent a close frame, the other side's or ours
        self.lost = False  # the socket is closed
        self.stall: asyncio.TimerHandle | None = None  # runs while the far end leaves its bytes unread

    # The hot path

    def data_received(self, data: bytes) -> None:
        scanner = self.scanner
        try:
            data = scanner.feed(data)
        except FrameError as error:
            self.observer.protocol_error(self, error)
            return
        if scanner.spans and not (data := self.observer.inspect(self, data)):
            return
        self.write_other(data)

    # Back-pressure: called when the unsent bytes of this side cross the marks of its transport

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()
        observer = self.observer
        self.stall = asyncio.get_running_loop().call_later(observer.stall_s, observer.stalled, self)

    def resume_writing(self) -> None:
        self.cancel_stall()
        self.other.resume_reading()

    def cancel_stall(self) -> None:
        """Stop the stall timer, if it runs."""
        if self.stall is not None:
            self.stall.cancel()
            self.stall = None

    # The end of the leg

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.stall is not None:
            self.stall.cancel()  # and stays set: a side that did not read is not fit for another relay
        self.observer.connection_lost(self, disconnect_of(exc))

    def break_cycles(self) -> None:
        """Drop the references to the relay and the other side. Call it once both sockets are closed."""
        del self.observer, self.other

    def pass_buffered(self, buffered: bytes, *, transformed: bool) -> None:
        """Pass on the frames that the leg had buffered; its scanner has counted them already.

        `transformed`: whether a side with a transform applies it to them.
        """
        if buffered:
            self.observer.buffered_passed(self)
            self.write_other(buffered)

    def flush(self) -> bool:
        """Pass on what this side still holds back, as its far end is gone.

        Return True if the other side has received whole messages only.
        """
        return self.scanner.between_messages

    def complete_message(self) -> bool:
        """Complete the message that broke off when this side was lost.

        The missing payload is filled with blanks. Such a message is not valid JSON: the other side discards
        it and reads the next one. Return False, with nothing written, if too much is missing.
        """
        scanner = self.scanner
        if scanner.left > HIGH_WATER_BYTES:
            return False
        missing = b" " * scanner.left
        if scanner.inside_message:
            missing += frames.build(frames.CONTINUATION, b"", masked=self.other.client)
        self.write_other(missing)
        return True

    def resume_reading(self) -> None:
        """Read on, unless the transport is closing."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    @property
    def is_writable(self) -> bool:
        """Whether anything may still be written to this side."""
        return not self.close_sent and not self.transport.is_closing()

    @property
    def can_send_message(self) -> bool:
        """Whether a whole message of the gateway's own may be written to this side now."""
        return self.is_writable and self.other.scanner.between_messages

    def send_close(self, code: int, reason: str) -> None:
        """Send a close frame, and count it as sent in any case.

        Inside another frame none can stand (RFC 6455 §5.4): the far end then only sees its socket close.
        """
        if not self.close_sent and self.other.scanner.at_boundary and not self.transport.is_closing():
            self.transport.write(frames.build_close(code, reason, masked=self.client))
        self.close_sent = True

    def close_transport(self) -> None:
        """Close the socket after the unsent bytes were sent; at once if the far end does not read them."""
        if self.stall is not None:
            self.transport.abort()  # its unsent bytes would keep the socket open for ever
        else:
            self.transport.close()


def feed_scanner(side: RelaySide, data: bytes) -> list[tuple[int, bytes]]:
    """Return opcode and payload of each frame in `data` that the scanner of `side` reports.

    For a side whose frames are not passed on. A frame that breaks the protocol is returned as an empty close.
    """
    broken = False
    try:
        data = side.scanner.feed(data)
    except FrameError as error:
        broken, data = True, error.passing
    received = [(span.opcode, frames.payload(data, span)) for span in side.scanner.spans]
    side.scanner.spans.clear()
    return [*received, (frames.CLOSE, b"")] if broken else received
