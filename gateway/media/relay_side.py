# SPDX-License-Identifier: BSD-2-Clause
"""One side of a relay: the hot path.

`RelaySide.data_received` runs once per chunk of sound and makes no task, no await and no object besides the
chunk. Everything that happens once per call is the relay's (gateway/media/relay.py). A `Pump` calls it with
what it has read, a transport where TLS is between; with the accelerator even this runs only for what is not
plain sound (gateway/media/direct_transport.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.media.direct_transport import HIGH_WATER_BYTES, DirectTransport
from gateway.websocket import frames
from gateway.websocket.frames import FrameError

if TYPE_CHECKING:
    from gateway.media.leg import Leg
    from gateway.media.relay import Relay


class RelaySide(asyncio.Protocol):
    """One leg while it is coupled: what it reads goes to `other`."""

    __slots__ = (
        "client",
        "close_seen",
        "close_sent",
        "lost",
        "other",
        "relay",
        "scanner",
        "stall",
        "transport",
        "write_other",
    )

    looks_below = 0
    """Which of its data frames it wants to see once the agent has been heard; see FrameScanner."""

    other: RelaySide
    write_other: Callable[[bytes], None]

    def __init__(self, relay: Relay, leg: Leg) -> None:
        self.relay = relay
        self.transport: asyncio.Transport | DirectTransport = leg.transport
        self.scanner = leg.scanner
        self.client = leg.client
        self.close_seen = False  # the far end has sent its close frame
        self.close_sent = False  # it has been sent one, the other side's or ours
        self.lost = False
        self.stall: asyncio.TimerHandle | None = None

    # The hot path

    def data_received(self, data: bytes) -> None:
        scanner = self.scanner
        try:
            data = scanner.feed(data)
        except FrameError as error:
            self.relay.broken(self, error)
            return
        if scanner.seen and not (data := self.relay.look(self, data)):
            return
        self.write_other(data)

    # Back-pressure: these are called when this leg's unsent bytes cross the marks

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()
        self.stall = asyncio.get_running_loop().call_later(
            self.relay.limits.stall_s, self.relay.teardown.stalled, self
        )

    def resume_writing(self) -> None:
        if self.stall is not None:
            self.stall.cancel()
            self.stall = None
        self.other.resume_reading()

    # The end of the leg

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.stall is not None:
            self.stall.cancel()
        self.relay.teardown.gone(self)

    def let_go(self) -> None:
        """Nothing can happen on either side any more: they hold each other no longer."""
        del self.relay, self.other

    def pass_kept(self, kept: bytes, *, as_it_came: bool) -> None:
        """Passes on what came before the legs were coupled; it has been walked already.

        `as_it_came`: also where there is a filter.
        """
        if kept:
            self.relay.unseen(self)
            self.write_other(kept)

    def finish(self) -> bool:
        """Passes on what is kept, as no more will come; whether the other side has whole messages only."""
        return self.scanner.between_messages

    def mend(self) -> bool:
        """Completes what was lost here in the middle; False where too much is missing.

        A message that ends in blanks is no JSON: the other side throws that one away, and hears the next.
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
        if not self.transport.is_closing():
            self.transport.resume_reading()

    @property
    def writable(self) -> bool:
        """Whether anything may still be written to this side."""
        return not self.close_sent and not self.transport.is_closing()

    @property
    def takes_message(self) -> bool:
        """Whether a whole message of ours may be written to this side now."""
        return self.writable and self.other.scanner.between_messages

    def send_close(self, code: int, reason: str) -> None:
        """A close frame of ours, where one may stand; without one the far end still sees the socket close."""
        if not self.close_sent and self.other.scanner.at_boundary and not self.transport.is_closing():
            self.transport.write(frames.build_close(code, reason, masked=self.client))
        self.close_sent = True

    def close_transport(self) -> None:
        if self.stall is not None:
            self.transport.abort()  # it does not read: what is unsent would keep the socket open for ever
        else:
            self.transport.close()
