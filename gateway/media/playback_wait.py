# SPDX-License-Identifier: BSD-2-Clause
"""The wait until a caller has heard what the agent has said, before the call is hung up or transferred.

A mark (Plivo: a checkpoint) is written behind the agent's last sound, and the carrier returns it once it has
played everything before it. Sound that the agent adds meanwhile is waited for, too. A carrier that returns no
mark is waited for as long as the sound lasts by the clock (playback_clock.py), and MARGIN_S more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.media.playback_clock import PlaybackClock
from gateway.media.relay_side import RelaySide
from gateway.websocket import frames
from gateway.websocket.frames import FrameSpan
from serializers.dialect import Dialect, DialectError
from serializers.events import Mark, Played, Start

MARGIN_S: Final = 2.0
"""How much later than by the clock a carrier may have played the sound, because of its way there."""

UNKNOWN_S: Final = 10.0
"""How long to wait for the mark if the length of the sound is not known, as of a codec of variable rate."""

RETRY_S: Final = 0.05
"""How long until a mark is tried again that would have stood inside one of the agent's messages."""

MAX_ECHO_BYTES: Final = 1024
"""Messages of the carrier below this size are searched for a returned mark."""

MARK_PREFIX: Final = "patchbay:end"
"""The beginning of the names of the gateway's own marks, which never reach the agent."""


class PlaybackMarks:
    """The gateway's own marks on one carrier's stream."""

    __slots__ = ("_dialect", "_start")

    def __init__(self, dialect: Dialect, start: Start) -> None:
        """`start`: the opening of the carrier's stream."""
        self._dialect = dialect
        self._start = start

    def message(self, number: int) -> bytes:
        """Return the message that asks the carrier to return mark `number`."""
        name = MARK_PREFIX if not number else f"{MARK_PREFIX}:{number}"
        return self._dialect.write_agent(Mark(name), self._start).encode()

    def number_of(self, payload: bytes) -> int | None:
        """Return the number of the mark that a carrier's message returns, None for any other message."""
        if MARK_PREFIX.encode() not in payload or len(payload) >= MAX_ECHO_BYTES:
            return None
        try:
            event = self._dialect.read_carrier(payload)
        except DialectError:
            return None
        if not isinstance(event, Played) or not event.name.startswith(MARK_PREFIX):
            return None
        number = event.name.removeprefix(MARK_PREFIX).removeprefix(":") or "0"
        return int(number) if number.isascii() and number.isdigit() else None


@dataclass(frozen=True, slots=True)
class PlaybackLimits:
    """How long a playback is waited for.

    `longest_s`: in any case; 0 for no wait at all. `queued_s`: the sound that the caller has yet to hear;
    None if that is not known.
    """

    longest_s: float
    queued_s: float | None

    @property
    def wait_s(self) -> float:
        """How long the carrier has to return a mark that is written now, in seconds."""
        return min(self.longest_s, UNKNOWN_S if self.queued_s is None else self.queued_s + MARGIN_S)


class PlaybackWait:
    """The wait for one caller while both sides go on. It belongs to one relay, and is told what it sees."""

    __slots__ = (
        "_carrier",
        "_clock",
        "_deadline",
        "_frames",
        "_loop",
        "_number",
        "_on_done",
        "_timer",
        "marks",
    )

    def __init__(self, carrier: RelaySide, clock: PlaybackClock | None, marks: PlaybackMarks) -> None:
        """`clock`: None if the agent's sound cannot be counted."""
        self._loop = asyncio.get_running_loop()
        self._carrier = carrier
        self._clock = clock
        self.marks = marks
        self._number = 0
        self._frames = -1  # of the agent, when the last mark was written
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._on_done: list[Callable[[], None]] = []

    @property
    def is_over(self) -> bool:
        """Whether nothing is waited for."""
        return not self._on_done

    def begin(self, longest_s: float, on_done: Callable[[], None]) -> None:
        """Call `on_done` once the caller has heard everything, after `longest_s` seconds at the latest."""
        begins = self.is_over
        self._on_done.append(on_done)
        if begins:
            self._deadline = self._loop.time() + longest_s
            self._mark()

    def done(self) -> None:
        """Wait no longer. No effect if nothing is waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._on_done = self._on_done, []
        for on_done in waiting:
            on_done()

    def takes(self, payload: bytes) -> bool:
        """Return True for a mark of the gateway's own that the carrier has returned. The agent gets none."""
        number = self.marks.number_of(payload)
        if number is None:
            return False
        if number == self._number and not self.is_over:
            # Later: this is called while a chunk of the carrier's is being passed on.
            self._loop.call_soon(self._returned, number)
        return True

    def without_marks(self, data: bytes, spans: list[FrameSpan]) -> tuple[bytes, list[FrameSpan]]:
        """Return `data` and the `spans` in it without the marks of the gateway's own."""
        for span in spans:
            if span.first_byte == frames.FIN | frames.TEXT and self.takes(frames.payload(data, span)):
                return self._without(data, spans)
        return data, spans

    def _without(self, data: bytes, spans: list[FrameSpan]) -> tuple[bytes, list[FrameSpan]]:
        remaining: list[FrameSpan] = []
        parts: list[bytes] = []
        begin = cut = 0
        for span in spans:
            is_text = span.first_byte == frames.FIN | frames.TEXT
            if is_text and self.marks.number_of(frames.payload(data, span)) is not None:
                parts.append(data[begin : span.start])
                begin = span.end
                cut += span.end - span.start
            else:
                remaining.append(
                    FrameSpan(span.first_byte, span.start - cut, span.body - cut, span.end - cut)
                )
        return b"".join([*parts, data[begin:]]), remaining

    def _mark(self) -> None:
        """Write a mark behind what the agent has said."""
        self._timer = None
        carrier, now = self._carrier, self._loop.time()
        agent = carrier.other.scanner
        if not carrier.is_writable or now >= self._deadline:
            self.done()
        elif not carrier.can_send_message:
            self._timer = self._loop.call_later(RETRY_S, self._mark)
        else:
            self._number += 1
            self._frames = agent.frames
            carrier.transport.write(
                frames.build(frames.TEXT, self.marks.message(self._number), masked=carrier.client)
            )
            queued_s = None if self._clock is None else self._clock.queued_s(agent, now)
            wait_s = PlaybackLimits(self._deadline - now, queued_s).wait_s
            self._timer = self._loop.call_later(wait_s, self._expired)

    def _returned(self, number: int) -> None:
        if number != self._number or self.is_over:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._carrier.other.scanner.frames == self._frames:
            if self._clock is not None:
                self._clock.play_all(self._carrier.other.scanner)
            self.done()
        else:
            self._mark()

    def _expired(self) -> None:
        """End the wait for a carrier that returns no mark, once the sound that came meanwhile is over."""
        self._timer = None
        now, clock = self._loop.time(), self._clock
        left_s = 0.0 if clock is None else clock.queued_s(self._carrier.other.scanner, now)
        if left_s <= 0 or now >= self._deadline:
            self.done()
        else:
            self._timer = self._loop.call_at(min(now + left_s, self._deadline), self._expired)
