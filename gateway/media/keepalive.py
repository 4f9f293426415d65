# SPDX-License-Identifier: BSD-2-Clause
"""Keep-alives: the relay's own pings on both legs, and what becomes of the answers.

Proxies close a socket on which nothing was sent for some time, mostly a minute. So a ping is written between
two frames now and then (RFC 6455 §5.5.2), by the timer that all relays share: nothing runs per frame. An
answer is not required, because some carriers give none. An answer that does come is removed from the stream,
because the other side did not send the ping. Only the agent's answers can be made a condition of the call.
"""

from __future__ import annotations

import math
import os
from typing import Final

from gateway.media.relay_side import RelaySide
from gateway.model.reasons import CallEnded, Reasons
from gateway.websocket import frames
from gateway.websocket.frames import FrameSpan

PAYLOAD: Final = b"patchbay" + os.urandom(8)
"""The payload of the pings, by which their pongs are recognised. It is different in each process, because an
agent may itself be reached through another gateway."""

PINGS_BEFORE_LOSS: Final = 3
"""The number of pings that an agent gets before its silence counts as a loss."""

_NEVER: Final = math.inf


class KeepAlive:
    """The pings of one relay. All times are of the event loop's clock, in seconds."""

    __slots__ = ("_agent", "_bytes_seen", "_carrier", "_intervals", "_lost_by", "_ping_by", "_silence_s")

    def __init__(
        self, carrier: RelaySide, agent: RelaySide, now: float, *, interval_s: float, agent_silence_s: float
    ) -> None:
        """`interval_s`: between two pings, 0 for none. `agent_silence_s`: 0 if an agent may be silent."""
        self._carrier = carrier
        self._agent = agent
        agent_interval_s = min(
            interval_s or _NEVER, agent_silence_s / PINGS_BEFORE_LOSS if agent_silence_s else _NEVER
        )
        self._intervals = [(carrier, interval_s or _NEVER), (agent, agent_interval_s)]
        self._ping_by = [now + interval for _, interval in self._intervals]
        self._silence_s = agent_silence_s
        self._bytes_seen = -1  # from the agent, at the last check
        self._lost_by = now + agent_silence_s if agent_silence_s else _NEVER

    @property
    def next_check(self) -> float:
        """The time at which `check` must be called again."""
        return min(*self._ping_by, self._lost_by)

    def check(self, now: float) -> CallEnded | None:
        """Send the pings that are due. Return the call's end if the agent has been silent for too long."""
        for number, (side, interval) in enumerate(self._intervals):
            # Inside a frame it is tried again at the next tick; the side is not idle there anyway.
            if now >= self._ping_by[number] and send_ping(side):
                self._ping_by[number] = now + interval
        if self._silence_s:
            return self._check_agent(now)
        return None

    def _check_agent(self, now: float) -> CallEnded | None:
        bytes_seen = self._agent.scanner.bytes
        # An agent is not silent while it is not read, or does not read: stalls have a limit of their own.
        is_stalled = self._carrier.stall is not None or self._agent.stall is not None
        if bytes_seen != self._bytes_seen or is_stalled:
            self._bytes_seen = bytes_seen
            self._lost_by = now + self._silence_s
        elif now >= self._lost_by:
            self._lost_by = _NEVER
            return CallEnded(Reasons.agent_lost, f"neither a word nor a pong for {self._silence_s:g} s")
        return None


def send_ping(side: RelaySide) -> bool:
    """Send a ping. Return False if a frame is being written, so that the caller tries again.

    Return True if it was sent, or is not needed: the side is closing, or does not read anyway.
    """
    if side.lost or side.close_sent or side.transport.is_closing():
        return True
    if not side.other.scanner.at_boundary:
        return False
    if side.stall is None:
        side.transport.write(frames.build(frames.PING, PAYLOAD, masked=side.client))
    return True


def is_own_pong(chunk: bytes, span: FrameSpan) -> bool:
    """Return True if the frame at `span` in `chunk` answers a ping of this process."""
    return span.opcode == frames.PONG and frames.payload(chunk, span) == PAYLOAD


def without_own_pongs(chunk: bytes, spans: list[FrameSpan]) -> tuple[bytes, list[FrameSpan]]:
    """Return `chunk` and the `spans` in it without the answers to the pings of this process."""
    remaining: list[FrameSpan] = []
    parts: list[bytes] = []
    begin = cut = 0
    for span in spans:
        if is_own_pong(chunk, span):
            parts.append(chunk[begin : span.start])
            begin = span.end
            cut += span.end - span.start
        else:
            remaining.append(FrameSpan(span.first_byte, span.start - cut, span.body - cut, span.end - cut))
    return (b"".join([*parts, chunk[begin:]]), remaining) if cut else (chunk, spans)
