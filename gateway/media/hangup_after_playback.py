# SPDX-License-Identifier: BSD-2-Clause
"""The end of a call whose agent has closed its socket, after the carrier has played all audio it has.

The call is then hung up, or only its stream is closed, so that the carrier goes on with its document.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final

from gateway.media.disconnect import disconnect_of
from gateway.media.playback_wait import MAX_ECHO_BYTES, PlaybackLimits, PlaybackMarks
from gateway.media.relay_side import RelaySide, feed_scanner
from gateway.websocket import frames
from serializers.dialect import Dialect
from serializers.events import Start

HANGUP_TIMEOUT_S: Final = 15.0
"""How long the hang-up may take."""

PLAYED_S: Final = 0.1
"""Sound of up to this length counts as heard where the carrier's stream is only closed."""

_MARK_NUMBER: Final = 0


class HangupAfterPlayback:
    """Waits until the carrier has played all audio, then hangs the call up.

    The end of the playback is known by a mark message, which a carrier echoes once it has played all audio
    before it. `hangs_up`: whether more is to be done than to close the carrier's side.
    """

    __slots__ = ("_hang_up", "_longest_s", "_marks", "hangs_up")

    def __init__(
        self,
        dialect: Dialect,
        start: Start,
        hang_up: Callable[[], Awaitable[None]],
        *,
        hangs_up: bool,
        longest_s: float,
    ) -> None:
        """`start`: the opening of the carrier's stream. `hang_up`: hangs the call up, or does nothing; must
        not raise. `longest_s`: how long the playback is waited for; 0 not at all.
        """
        self.hangs_up = hangs_up
        self._marks = PlaybackMarks(dialect, start)
        self._hang_up = hang_up
        self._longest_s = longest_s

    def wait_s(self, queued_s: float | None) -> float:
        """Return the seconds that the carrier may play. `queued_s`: see PlaybackLimits."""
        return PlaybackLimits(self._longest_s, queued_s).wait_s

    def is_needed(self, queued_s: float | None) -> bool:
        """Return True if the carrier's side cannot be closed at once. `queued_s`: see PlaybackLimits."""
        return self.hangs_up or (self._longest_s > 0 and (queued_s or 0.0) > PLAYED_S)

    def run(
        self,
        carrier: RelaySide,
        wait_s: float,
        on_played: Callable[[bool], None],
        on_done: Callable[[], None],
    ) -> Coroutine[None, None, None]:
        """Return the coroutine that waits for the playback, hangs up and calls `on_done`; it does not raise.

        `wait_s`: how long to wait; 0 if the agent has said nothing. `on_played`: called when the wait is
        over, with True if the carrier says that it has played everything.
        From this call on, and not only once the coroutine runs, nothing of the carrier's is passed on.
        """
        drain = PlaybackDrain(carrier, self._is_echo)
        carrier.transport.set_protocol(drain)
        carrier.transport.resume_reading()
        return self._run(carrier, drain, wait_s, on_played, on_done)

    async def hang_up(self) -> None:
        """Hang up at once, for a call without a relay. Gives up after `HANGUP_TIMEOUT_S`; does not raise."""
        await asyncio.wait([asyncio.ensure_future(self._hang_up())], timeout=HANGUP_TIMEOUT_S)

    async def _run(
        self,
        carrier: RelaySide,
        drain: PlaybackDrain,
        wait_s: float,
        on_played: Callable[[bool], None],
        on_done: Callable[[], None],
    ) -> None:
        if wait_s and not carrier.transport.is_closing() and carrier.other.scanner.between_messages:
            mark = self._marks.message(_MARK_NUMBER)
            carrier.transport.write(frames.build(frames.TEXT, mark, masked=carrier.client))
            await asyncio.wait([drain.finished], timeout=wait_s)
        on_played(drain.was_played)
        await self.hang_up()
        on_done()

    def _is_echo(self, payload: bytes) -> bool:
        return self._marks.number_of(payload) == _MARK_NUMBER


class PlaybackDrain(asyncio.Protocol):
    """The carrier's side while it plays its last audio. Reads only the echo of the mark, pings and a close.

    `finished` is done once the mark was echoed (`was_played`), or the carrier has closed or was lost.
    """

    def __init__(self, side: RelaySide, is_echo: Callable[[bytes], bool]) -> None:
        self._side = side
        self._is_echo = is_echo
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.was_played = False
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
                self.was_played = not self.finished.done()
                self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._side.lost = True
        self._finish()
        self._side.observer.connection_lost(self._side, disconnect_of(exc))

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)

    def pause_writing(self) -> None:
        """Do nothing: the unsent bytes are the agent's last words, and the playback's limit is theirs."""
