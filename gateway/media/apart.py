# SPDX-License-Identifier: BSD-2-Clause
"""The end of a call whose two sides do not end together.

When the agent ends the session, the carrier may still be playing what it said: a `Farewell` waits for that,
and then has the call hung up. When a call is transferred the carrier's stream ends and the call goes on
elsewhere, but an agent that hangs up with its socket would end it: it is left alone, on an open socket
(carriers.md §8.3). Both happen once per call and after its last relayed frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Final

from gateway.media import frames
from gateway.media.frames import FrameError
from serializers.dialect import Dialect, DialectError
from serializers.events import Mark, Played, Start

if TYPE_CHECKING:
    from gateway.media.side import Side
    from gateway.media.uncoupling import Uncoupling

PLAYED_S: Final = 10.0
"""How long the carrier has to play what it was sent."""
HANG_UP_S: Final = 15.0
"""How long the hanging up may take."""
LONGEST_ECHO_BYTES: Final = 1024

_NAME: Final = "patchbay:end"


class Farewell:
    """What is done for a caller whose agent has ended the session."""

    __slots__ = ("_dialect", "_hang_up", "_mark")

    def __init__(self, dialect: Dialect, start: Start, hang_up: Callable[[], Awaitable[None]]) -> None:
        """`hang_up` raises nothing, and is bounded by HANG_UP_S."""
        self._dialect = dialect
        self._mark = dialect.write_agent(Mark(_NAME), start).encode()
        self._hang_up = hang_up

    def bid(self, uncoupling: Uncoupling, *, has_spoken: bool) -> Coroutine[None, None, None]:
        """What waits until all was played, hangs up, and lets the carrier's side close; it raises nothing.

        From this call on the carrier is not passed on any more.
        """
        waiting = _LastWords(uncoupling, uncoupling.carrier, self._is_echo)
        uncoupling.carrier.transport.set_protocol(waiting)
        uncoupling.carrier.transport.resume_reading()
        return self._bid(uncoupling, waiting, has_spoken)

    async def hang_up(self) -> None:
        """Hangs up, where no relay is left to play anything; raises nothing."""
        await asyncio.wait([asyncio.ensure_future(self._hang_up())], timeout=HANG_UP_S)

    async def _bid(self, uncoupling: Uncoupling, waiting: _LastWords, has_spoken: bool) -> None:
        side = uncoupling.carrier
        if has_spoken and not side.transport.is_closing() and side.other.walker.between_messages:
            side.transport.write(frames.build(frames.TEXT, self._mark, masked=side.client))
            await asyncio.wait([waiting.over], timeout=PLAYED_S)
        await self.hang_up()
        uncoupling.close_carrier()

    def _is_echo(self, payload: bytes) -> bool:
        try:
            event = self._dialect.read_carrier(payload)
        except DialectError:
            return False
        return isinstance(event, Played) and event.name == _NAME


class _LastWords(asyncio.Protocol):
    """The carrier's side while it plays what it has: of what it says only the echo of the mark is heard."""

    def __init__(self, uncoupling: Uncoupling, side: Side, is_echo: Callable[[bytes], bool]) -> None:
        self._uncoupling = uncoupling
        self._side = side
        self._is_echo = is_echo
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        side.walker.look_below = LONGEST_ECHO_BYTES

    def data_received(self, data: bytes) -> None:
        side = self._side
        if side.close_seen:
            return
        for frame, payload in _seen(side, data):
            if frame == frames.CLOSE:
                side.close_seen = True
                self._end()
            elif frame == frames.PING:
                side.transport.write(frames.build(frames.PONG, payload, masked=side.client))
            elif frame == frames.TEXT and self._is_echo(payload):
                self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._side.lost = True
        self._end()
        self._uncoupling.gone(self._side)

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def pause_writing(self) -> None:
        """What is unsent is the agent's last words, which are waited for."""


class Alone(asyncio.Protocol):
    """The agent's side of a call that was transferred: its socket is kept, and what it says goes nowhere."""

    def __init__(self, uncoupling: Uncoupling, side: Side) -> None:
        self._uncoupling = uncoupling
        self._side = side
        side.walker.look_below = 0

    def data_received(self, data: bytes) -> None:
        side = self._side
        if side.close_seen:
            return
        for frame, payload in _seen(side, data):
            if frame == frames.CLOSE:
                self._uncoupling.left_alone(payload)
                return
            if frame == frames.PING and side.other.walker.at_boundary:
                side.transport.write(frames.build(frames.PONG, payload, masked=side.client))

    def connection_lost(self, exc: Exception | None) -> None:
        self._side.lost = True
        self._uncoupling.gone(self._side)

    def pause_writing(self) -> None:
        """Nothing but pongs is written, and an agent that reads none is not waited for."""


class Closing(asyncio.Protocol):
    """A side whose call has ended: reads on for the far end's close, passes nothing."""

    def __init__(self, uncoupling: Uncoupling, side: Side) -> None:
        self._uncoupling = uncoupling
        self._side = side
        side.walker.look_below = 0

    def data_received(self, data: bytes) -> None:
        side = self._side
        if side.close_seen:
            return
        try:
            data = side.walker.feed(data)
        except FrameError:
            side.close_seen = True  # it will not say anything better
        for frame in side.walker.seen:
            side.close_seen |= frame.opcode == frames.CLOSE
        side.walker.seen.clear()
        self._uncoupling.answered()

    def connection_lost(self, exc: Exception | None) -> None:
        self._side.lost = True
        self._uncoupling.gone(self._side)

    def pause_writing(self) -> None:
        """Nothing is written any more."""


def _seen(side: Side, data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and payload of the frames that are looked at; what breaks the protocol counts as a close."""
    broken = False
    try:
        data = side.walker.feed(data)
    except FrameError as error:
        broken, data = True, error.passing
    found = [(frame.opcode, frames.payload(data, frame)) for frame in side.walker.seen]
    side.walker.seen.clear()
    return [*found, (frames.CLOSE, b"")] if broken else found
