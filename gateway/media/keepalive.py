# SPDX-License-Identifier: BSD-2-Clause
"""Keep-alives: pings of our own on both legs of a relay, and what becomes of their answers.

A proxy between takes a socket on which nothing is said for dead, mostly after a minute. So a ping is put
between two frames now and then (RFC 6455 §5.5.2), by the one clock of all relays: nothing runs per frame. An
answer is not asked for, as there are carriers that give none; one that comes is cut out, for the far side did
not send the ping. Only of an agent an operator may want to be sure.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Final

from gateway.model.reasons import CallEnded, Reasons
from gateway.websocket import frames
from gateway.websocket.frames import FrameSpan

if TYPE_CHECKING:
    from gateway.media.relay_side import RelaySide

PAYLOAD: Final = b"patchbay" + os.urandom(8)
"""By which our own pongs are known; of each process another, as an agent may itself be behind a gateway."""

SIGNS_IN_TIME: Final = 3
"""How many pings an agent gets before its silence counts."""

_NEVER: Final = math.inf


class KeepAlive:
    """The pings of one relay. Times are the loop's, in seconds."""

    __slots__ = ("_agent", "_carrier", "_heard", "_intervals", "_lost_by", "_ping_by", "_silence_s")

    def __init__(
        self, carrier: RelaySide, agent: RelaySide, now: float, *, interval_s: float, agent_silence_s: float
    ) -> None:
        """`interval_s`: between two pings, 0 for none. `agent_silence_s`: 0 where an agent may be silent."""
        self._carrier = carrier
        self._agent = agent
        often = min(interval_s or _NEVER, agent_silence_s / SIGNS_IN_TIME if agent_silence_s else _NEVER)
        self._intervals = [(carrier, interval_s or _NEVER), (agent, often)]
        self._ping_by = [now + interval for _, interval in self._intervals]
        self._silence_s = agent_silence_s
        self._heard = -1
        self._lost_by = now + agent_silence_s if agent_silence_s else _NEVER

    @property
    def next_look(self) -> float:
        """When `look` is to be called again."""
        return min(*self._ping_by, self._lost_by)

    def look(self, now: float) -> CallEnded | None:
        """Pings whom it is time for; the call's end where the agent has been silent for too long."""
        for place, (side, interval) in enumerate(self._intervals):
            # Inside a frame it is tried again with the next tick: something is being said there anyway.
            if now >= self._ping_by[place] and _ping(side):
                self._ping_by[place] = now + interval
        if self._silence_s:
            return self._judge(now)
        return None

    def _judge(self, now: float) -> CallEnded | None:
        heard = self._agent.scanner.bytes
        # Who is not read, or does not read, is not silent: that has a limit of its own.
        held_up = self._carrier.stall is not None or self._agent.stall is not None
        if heard != self._heard or held_up:
            self._heard = heard
            self._lost_by = now + self._silence_s
        elif now >= self._lost_by:
            self._lost_by = _NEVER
            return CallEnded(Reasons.agent_lost, f"neither a word nor a pong for {self._silence_s:g} s")
        return None


def _ping(side: RelaySide) -> bool:
    """Whether that is settled: it was sent, or the leg is beyond it."""
    if side.lost or side.close_sent or side.transport.is_closing():
        return True
    if not side.other.scanner.at_boundary:
        return False
    if side.stall is None:  # who does not read needs no more to read
        side.transport.write(frames.build(frames.PING, PAYLOAD, masked=side.client))
    return True


def is_ours(chunk: bytes, frame: FrameSpan) -> bool:
    """Whether a frame is the answer to a ping of ours."""
    return frame.opcode == frames.PONG and frames.payload(chunk, frame) == PAYLOAD


def without_pongs(chunk: bytes, seen: list[FrameSpan]) -> tuple[bytes, list[FrameSpan]]:
    """The chunk, and the frames seen in it, without the answers to our pings."""
    kept: list[FrameSpan] = []
    parts: list[bytes] = []
    begin = cut = 0
    for frame in seen:
        if is_ours(chunk, frame):
            parts.append(chunk[begin : frame.start])
            begin = frame.end
            cut += frame.end - frame.start
        else:
            kept.append(FrameSpan(frame.first, frame.start - cut, frame.body - cut, frame.end - cut))
    return (b"".join([*parts, chunk[begin:]]), kept) if cut else (chunk, seen)
