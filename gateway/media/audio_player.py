# SPDX-License-Identifier: BSD-2-Clause
"""Plays audio to a caller whose agent is not connected yet, or has not said anything.

An `AudioPlayer` writes media messages of the carrier's dialect to the carrier's leg, and later to the
carrier's side of a relay, until it is stopped. Then it sends a clear message, so that the carrier discards
what it has not played. All players of an event loop share one timer (`Pacer`).

No carrier is sent more than AHEAD_S of audio that it has yet to play, so that a clear takes effect at once,
and nothing is sent while earlier bytes are unsent. A player that has stopped costs nothing.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from gateway.audio.clips import MAX_PIECE_MS, AudioClip
from gateway.websocket import frames
from serializers.dialect import Dialect
from serializers.events import Clear, Media, Start

AHEAD_S: Final = MAX_PIECE_MS / 1000
"""The most audio that a carrier has received and not played, in seconds."""

TICK_S: Final = 0.1
"""The interval of the timer. A tick may be late by AHEAD_S minus this, and the caller hears no gap."""

WAIT_S: Final = 0.15
"""How long to wait for the agent before playing at all. With one tick more, playing begins within 300 ms."""

PLAYBACK_DELAY_S: Final = 0.3
"""How long after it was sent the end of a message is heard, because of its way through the carrier."""

_ROUNDING_S: Final = 1e-6
"""Sums of seconds are not exact."""


class Writer(Protocol):
    """The part of a transport that a player uses."""

    def write(self, data: bytes) -> None: ...
    def get_write_buffer_size(self) -> int: ...


class AudioSink(Protocol):
    """The carrier's side of a call: a `Leg`, or a `RelaySide`."""

    client: bool

    @property
    def transport(self) -> Writer: ...

    @property
    def is_writable(self) -> bool:
        """Whether anything may still be written."""

    @property
    def can_send_message(self) -> bool:
        """Whether a whole message may be written now."""


class AudioPlayer:
    """The playback of one clip to one caller. `finished` is done when it was stopped, or has been heard."""

    __slots__ = (
        "_begin_at",
        "_clip",
        "_dialect",
        "_next_piece",
        "_pacer",
        "_played_until",
        "_repeats",
        "_sink",
        "_start",
        "_stop_at",
        "finished",
    )

    def __init__(
        self,
        sink: AudioSink,
        dialect: Dialect,
        start: Start,
        clip: AudioClip,
        *,
        wait_s: float = WAIT_S,
        repeats: bool = True,
        pacer: Pacer | None = None,
    ) -> None:
        """Begin to play after `wait_s`. `start`: the opening of the carrier's stream.

        `repeats`: play the clip again and again, until `stop`; otherwise once.
        """
        self._sink = sink
        self._dialect = dialect
        self._start = start
        self._clip = clip
        self._repeats = repeats
        self._pacer = pacer or pacer_of(asyncio.get_running_loop())
        self._next_piece = 0
        self._begin_at = self._pacer.now() + wait_s
        self._stop_at: float | None = None
        self._played_until: float | None = None  # when the carrier will have played all that it was sent
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pacer.add(self)

    @property
    def has_played(self) -> bool:
        """Whether any audio was sent."""
        return self._played_until is not None

    def move_to(self, sink: AudioSink, *, limit_s: float | None = None) -> None:
        """Go on playing on another sink of the same stream, because the legs were joined.

        `limit_s`: seconds from now after which the player stops by itself; None for no limit.
        """
        self._sink = sink
        if limit_s is not None:
            self._stop_at = self._pacer.now() + limit_s

    def stop(self, *, before_message: bool = False) -> None:
        """Stop playing, and have the carrier discard what it has not played. May be called again.

        `before_message`: the caller is about to write a whole message, so that a clear may precede it.
        """
        if self.finished.done():
            return
        self._finish()
        may_write = self._sink.is_writable if before_message else self._sink.can_send_message
        if self.has_played and may_write:
            self._write(self._dialect.write_agent(Clear(), self._start))

    # What the pacer calls

    def tick(self, now: float) -> None:
        """Send as much audio as may be sent. `now`: the event loop's time, in seconds."""
        if self._stop_at is not None and now >= self._stop_at:
            self.stop()
            return
        if now < self._begin_at:
            return
        until = now if self._played_until is None else max(self._played_until, now)
        if self._next_piece == len(self._clip.pieces) and not self._repeats:
            if self._played_until is not None and now >= self._played_until + PLAYBACK_DELAY_S:
                self._finish()
            return
        if self._sink.transport.get_write_buffer_size():
            return
        piece_s = self._clip.piece_ms / 1000
        while until + piece_s <= now + AHEAD_S + _ROUNDING_S and self._sink.can_send_message:
            if self._next_piece == len(self._clip.pieces):
                if not self._repeats:
                    break
                self._next_piece = 0
            piece = self._clip.pieces[self._next_piece]
            self._next_piece += 1
            until += piece_s
            self._played_until = until
            self._write(self._dialect.write_agent(Media(piece), self._start))

    def _write(self, message: str) -> None:
        self._sink.transport.write(frames.build(frames.TEXT, message.encode(), masked=self._sink.client))

    def _finish(self) -> None:
        self._pacer.remove(self)
        if not self.finished.done():
            self.finished.set_result(None)


class Pacer:
    """The one timer for all players of an event loop; it stops while there are none."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._players: dict[AudioPlayer, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def now(self) -> float:
        """Return the event loop's time, in seconds."""
        return self._loop.time()

    def add(self, player: AudioPlayer) -> None:
        """Tick `player` every TICK_S from now on."""
        self._players[player] = None
        if self._timer is None:
            self._due = self.now() + TICK_S
            self._timer = self._loop.call_at(self._due, self._tick)

    def remove(self, player: AudioPlayer) -> None:
        """Stop ticking `player`. No effect if it was never added."""
        self._players.pop(player, None)

    def _tick(self) -> None:
        now = self.now()
        for player in list(self._players):
            if player in self._players:  # a tick may have removed it
                player.tick(now)
        self._timer = None
        if self._players:
            self._due = max(self._due + TICK_S, now)  # a late tick does not delay the ones after it
            self._timer = self._loop.call_at(self._due, self._tick)


_pacers: WeakKeyDictionary[asyncio.AbstractEventLoop, Pacer] = WeakKeyDictionary()


def pacer_of(loop: asyncio.AbstractEventLoop) -> Pacer:
    """Return the one Pacer of `loop`."""
    if loop not in _pacers:
        _pacers[loop] = Pacer(loop)
    return _pacers[loop]
