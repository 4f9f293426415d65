# SPDX-License-Identifier: BSD-2-Clause
"""AudioClip for a caller whose agent is not there yet, or has not said anything.

A `AudioPlayer` plays on the carrier's leg, alone or coupled, in the carrier's own words, until it is stopped;
then the carrier is told to throw away what it has not played. All of a loop share one timer (`Pacer`). Nobody
is sent more than AHEAD_S of sound that is still to be played, so that a clear is heard at once, nor anything
while something else is unsent. One that has stopped costs nothing.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from gateway.audio.clips import LONGEST_PIECE_MS, AudioClip
from gateway.websocket import frames
from serializers.dialect import Dialect
from serializers.events import Clear, Media, Start

AHEAD_S: Final = LONGEST_PIECE_MS / 1000
"""The most sound that a carrier has and has not played."""

TICK_S: Final = 0.1
"""How often all are looked at; a tick may be as late as AHEAD_S less this and nobody hears a gap."""

WAIT_S: Final = 0.15
"""An agent that is there sooner is not preceded by any sound; with a tick more it begins within 300 ms."""

LAST_S: Final = 0.3
"""How much later than it was sent the last of a message is heard, on its way through the carrier."""


class Wire(Protocol):
    """The part of a transport that is needed."""

    def write(self, data: bytes) -> None: ...
    def get_write_buffer_size(self) -> int: ...


class AudioSink(Protocol):
    """The carrier's side of a call: a `Leg`, or a `Side` of a relay."""

    client: bool

    @property
    def transport(self) -> Wire: ...

    @property
    def is_writable(self) -> bool:
        """Whether anything may be written at all."""

    @property
    def can_send_message(self) -> bool:
        """Whether a whole message of ours may stand where the next byte is written."""


class AudioPlayer:
    """One caller's holding sound."""

    __slots__ = (
        "_begin_at",
        "_dialect",
        "_next",
        "_outlet",
        "_pacer",
        "_played_until",
        "_repeats",
        "_sound",
        "_start",
        "_stop_at",
        "over",
    )

    def __init__(
        self,
        outlet: AudioSink,
        dialect: Dialect,
        start: Start,
        sound: AudioClip,
        *,
        wait_s: float = WAIT_S,
        repeats: bool = True,
        pacer: Pacer | None = None,
    ) -> None:
        """Begins to play after `wait_s`; `start`: the opening of the carrier's stream.

        `repeats`: again and again; otherwise `over` is done when all was heard. It is also done by `stop`.
        """
        self._outlet = outlet
        self._dialect = dialect
        self._start = start
        self._sound = sound
        self._repeats = repeats
        self._pacer = pacer or pacer_of(asyncio.get_running_loop())
        self._next = 0
        self._begin_at = self._pacer.now() + wait_s
        self._stop_at: float | None = None
        self._played_until: float | None = (
            None  # the loop's time at which what was sent will have been played
        )
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pacer.add(self)

    @property
    def heard(self) -> bool:
        """Whether anything was sent."""
        return self._played_until is not None

    def move(self, outlet: AudioSink, *, limit_s: float | None = None) -> None:
        """Goes on playing on another outlet of the same stream: the legs were coupled.

        `limit_s`: seconds from now after which it stops by itself.
        """
        self._outlet = outlet
        if limit_s is not None:
            self._stop_at = self._pacer.now() + limit_s

    def stop(self, *, before_message: bool = False) -> None:
        """Plays no more, and has the carrier throw away what it has not played. May be called again.

        `before_message`: a whole message is just about to be written, so that another may stand before it.
        """
        if self.over.done():
            return
        self._end()
        if self.heard and (self._outlet.is_writable if before_message else self._outlet.can_send_message):
            self._say(self._dialect.write_agent(Clear(), self._start))

    # What the pacer says

    def tick(self, now: float) -> None:
        """Sends as much as may be sent; `now` is the loop's time, in seconds."""
        if self._stop_at is not None and now >= self._stop_at:
            self.stop()
            return
        if now < self._begin_at:
            return
        until = now if self._played_until is None else max(self._played_until, now)
        if self._next == len(self._sound.pieces) and not self._repeats:
            if self._played_until is not None and now >= self._played_until + LAST_S:
                self._end()
            return
        if self._outlet.transport.get_write_buffer_size():
            return
        piece_s = self._sound.piece_ms / 1000
        while (
            until + piece_s <= now + AHEAD_S + 1e-6 and self._outlet.can_send_message
        ):  # floats are not exact
            if self._next == len(self._sound.pieces):
                if not self._repeats:
                    break
                self._next = 0
            piece = self._sound.pieces[self._next]
            self._next += 1
            until += piece_s
            self._played_until = until
            self._say(self._dialect.write_agent(Media(piece), self._start))

    def _say(self, message: str) -> None:
        frame = frames.build(frames.TEXT, message.encode(), masked=self._outlet.client)
        self._outlet.transport.write(frame)

    def _end(self) -> None:
        self._pacer.remove(self)
        if not self.over.done():
            self.over.set_result(None)


class Pacer:
    """One timer for all holding sounds of a loop; it rests while there are none."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._playing: dict[AudioPlayer, None] = {}
        self._next: asyncio.TimerHandle | None = None
        self._due = 0.0

    def now(self) -> float:
        """The loop's time, in seconds."""
        return self._loop.time()

    def add(self, holding: AudioPlayer) -> None:
        """From now on it is told the time."""
        self._playing[holding] = None
        if self._next is None:
            self._due = self.now() + TICK_S
            self._next = self._loop.call_at(self._due, self._tick)

    def remove(self, holding: AudioPlayer) -> None:
        """No longer; also where it never was."""
        self._playing.pop(holding, None)

    def _tick(self) -> None:
        now = self.now()
        for holding in list(self._playing):
            if holding in self._playing:
                holding.tick(now)
        self._next = None
        if self._playing:
            self._due = max(self._due + TICK_S, now)  # a late tick makes the next ones no later
            self._next = self._loop.call_at(self._due, self._tick)


_pacers: WeakKeyDictionary[asyncio.AbstractEventLoop, Pacer] = WeakKeyDictionary()


def pacer_of(loop: asyncio.AbstractEventLoop) -> Pacer:
    """The one pacer of a loop."""
    if loop not in _pacers:
        _pacers[loop] = Pacer(loop)
    return _pacers[loop]
