# SPDX-License-Identifier: BSD-2-Clause
"""The two interfaces through which the parts of a relay report to the parts above them.

The modules of a relay import in one direction: relay → teardown → relay_timers → relay_side → ports. A side
and the timers nevertheless have to report upwards. They do so through these protocols, which name no class
of theirs: the type of a side is a parameter.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from gateway.media.disconnect import Disconnect
from gateway.media.playback_clock import PlaybackClock
from gateway.media.relay_states import RelayState
from gateway.model.reasons import CallEnded
from gateway.websocket.frames import FrameError, FrameSpan

SideT_contra = TypeVar("SideT_contra", contravariant=True)
SideT_co = TypeVar("SideT_co", covariant=True)


class SideObserver(Protocol[SideT_contra]):
    """Receives what a side of a relay does not decide itself; implemented by `Relay`.

    Nothing here is called for a chunk of plain media frames.
    """

    @property
    def stall_s(self) -> float:
        """Seconds that a side may leave its bytes unread."""

    def inspect(self, side: SideT_contra, data: bytes) -> bytes:
        """Process the frames in `side.scanner.spans`, which lie in `data`. Return the bytes to pass on."""

    def message_passed(self, side: SideT_contra, payload: bytes, after_bytes: int = 0) -> None:
        """Note that `side` has sent a whole message, which is being passed on.

        `after_bytes`: how many bytes behind it have come with it.
        """

    def is_own_mark(self, side: SideT_contra, payload: bytes) -> bool:
        """Return True if a message of `side` answers one of the gateway's own, and is not to be passed on."""

    def buffered_passed(self, side: SideT_contra) -> None:
        """Note that bytes are being passed on that `side` sent before the relay began."""

    def pong_received(self, side: SideT_contra, size: int) -> None:
        """Note that `size` bytes from `side` were answers to the relay's own pings."""

    def protocol_error(self, side: SideT_contra, error: FrameError) -> None:
        """End the relay, because `side` broke the WebSocket protocol (RFC 6455 §7.1.7)."""

    def close_received(self, side: SideT_contra, data: bytes, frame: FrameSpan) -> bytes:
        """Process the close frame at `frame` in `data`. Return the bytes of `data` to pass on."""

    def stalled(self, side: SideT_contra) -> None:
        """End the relay, because `side` has left its bytes unread for `stall_s`."""

    def connection_lost(self, side: SideT_contra, disconnect: Disconnect) -> None:
        """Note that the socket of `side` is closed; `side.lost` is already set."""


class TimedRelay(Protocol[SideT_co]):
    """The part of a relay that its timers read and act on; implemented by `Teardown`."""

    @property
    def state(self) -> RelayState:
        """The current state of the relay."""

    @property
    def carrier(self) -> SideT_co:
        """The carrier's side."""

    @property
    def agent(self) -> SideT_co:
        """The agent's side."""

    @property
    def clock(self) -> PlaybackClock | None:
        """The clock of the agent's sound; None if that cannot be counted."""

    def end(self, end: CallEnded) -> None:
        """End the call for a reason of the gateway's own, such as a limit."""

    def agent_silent(self, end: CallEnded) -> None:
        """Treat the agent as lost, although its socket is open."""

    def stop_expired(self) -> None:
        """Treat the carrier as gone: it announced `stop` and did not close its socket in time."""

    def finish(self) -> None:
        """Close both sockets without waiting any longer for a close frame."""
