# SPDX-License-Identifier: BSD-2-Clause
"""The hang-up of a call whose agent has closed its socket, after the carrier has played all audio it has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final

from gateway.media.disconnect import disconnect_of
from gateway.media.relay_side import RelaySide, feed_scanner
from gateway.websocket import frames
from serializers.dialect import Dialect, DialectError
from serializers.events import Mark, Played, Start

PLAYBACK_TIMEOUT_S: Final = 10.0
"""How long the carrier has to play the audio that it was sent."""

HANGUP_TIMEOUT_S: Final = 15.0
"""How long the hang-up may take."""

MAX_ECHO_BYTES: Final = 1024
"""Messages of the carrier below this size are searched for the echo of the mark."""

_MARK: Final = "patchbay:end"


class HangupAfterPlayback:
    """Waits until the carrier has played all audio, then hangs the call up.

    The end of the playback is known by a mark message, which a carrier echoes once it has played all audio
    before it.
    """

    __slots__ = ("_dialect", "_hang_up", "_mark")

    def __init__(self, dialect: Dialect, start: Start, hang_up: Callable[[], Awaitable[None]]) -> None:
        """`start`: the opening of the carrier's stream. `hang_up`: hangs the call up; must not raise."""
        self._dialect = dialect
        self._mark = dialect.write_agent(Mark(_MARK), start).encode()
        self._hang_up = hang_up

    def run(
        self, carrier: RelaySide, *, agent_has_spoken: bool, on_done: Callable[[], None]
    ) -> Coroutine[None, None, None]:
        """Return the coroutine that waits for the playback, hangs up and calls `on_done`; it does not raise.

        From this call on, and not only once the coroutine runs, nothing of the carrier's is passed on.
        """
        drain = PlaybackDrain(carrier, self._is_echo)
        carrier.transport.set_protocol(drain)
        carrier.transport.resume_reading()
        return self._run(carrier, drain, agent_has_spoken, on_done)

    async def hang_up(self) -> None:
        """Hang up at once, for a call without a relay. Gives up after `HANGUP_TIMEOUT_S`; does not raise."""
        await asyncio.wait([asyncio.ensure_future(self._hang_up())], timeout=HANGUP_TIMEOUT_S)

    async def _run(
        self, carrier: RelaySide, drain: PlaybackDrain, agent_has_spoken: bool, on_done: Callable[[], None]
    ) -> None:
        if agent_has_spoken and not carrier.transport.is_closing() and carrier.other.scanner.between_messages:
            carrier.transport.write(frames.build(frames.TEXT, self._mark, masked=carrier.client))
            await asyncio.wait([drain.finished], timeout=PLAYBACK_TIMEOUT_S)
        await self.hang_up()
        on_done()

    def _is_echo(self, payload: bytes) -> bool:
        try:
            event = self._dialect.read_carrier(payload)
        except DialectError:
            return False
        return isinstance(event, Played) and event.name == _MARK


class PlaybackDrain(asyncio.Protocol):
    """The carrier's side while it plays its last audio. Reads only the echo of the mark, pings and a close.

    `finished` is done once the mark was echoed, or the carrier has closed or was lost.
    """

    def __init__(self, side: RelaySide, is_echo: Callable[[bytes], bool]) -> None:
        self._side = side
        self._is_echo = is_echo
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        side.scanner.inspect_below = MAX_ECHO_BYTES

    def data_received(self, data: bytes) -> None:
        side = self._side
        if side.close_seen:
            return
        for opcode, payload in feed_scanner(side, data):
            if opcode == frames.CLOSE:
                side.close_seen = True
                self._finish()
            elif opcode == frames.PING:
                side.transport.write(frames.build(frames.PONG, payload, masked=side.client))
            elif opcode == frames.TEXT and self._is_echo(payload):
                self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._side.lost = True
        self._finish()
        self._side.observer.connection_lost(self._side, disconnect_of(exc))

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)

    def pause_writing(self) -> None:
        """Do nothing: the unsent bytes are the agent's last words, and `PLAYBACK_TIMEOUT_S` limits them."""
