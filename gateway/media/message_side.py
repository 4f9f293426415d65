# SPDX-License-Identifier: BSD-2-Clause
"""The second coupling: every message is looked at before it is passed on, and may be changed.

Chosen once per call, for agents that want it (`media = "messages"`). It costs about twice the first
coupling and gives what that cannot: a filter a direction (serializers/transforms.py) decides what reaches the
other side. Frames that a filter leaves alone are passed on as they came, as are control frames.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.media.keepalive import is_ours
from gateway.media.relay_side import RelaySide
from gateway.websocket import frames
from gateway.websocket.frames import FrameError, FrameSpan

if TYPE_CHECKING:
    from gateway.media.leg import Leg
    from gateway.media.relay import Relay
    from serializers.transforms import Transform

PAUSE_S = 0.1
"""Silence of a speaker after which what is kept for a whole piece is passed on."""


class MessageSide(RelaySide):
    """A side whose messages go through a filter."""

    __slots__ = ("_filter", "_flush", "_parts", "_raw")

    looks_below = frames.INSPECT_ALL

    def __init__(self, relay: Relay, leg: Leg, message_filter: Transform) -> None:
        super().__init__(relay, leg)
        self._filter = message_filter
        self._parts: list[bytes] = []  # payloads of the message that is coming, and
        self._raw: list[bytes] = []  # its frames as they came
        self._flush: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        scanner = self.scanner
        broken = None
        try:
            data = scanner.feed(data)
        except FrameError as error:
            broken, data = error, error.passing
        seen = scanner.seen
        scanner.seen = []
        passing: list[bytes] = []
        for frame in seen:
            if frame.first & 0x08:
                if frame.opcode == frames.CLOSE:
                    self._stop_waiting(passing)
                    self.write_other(b"".join(passing))
                    alone = FrameSpan(frame.first, 0, frame.body - frame.start, frame.end - frame.start)
                    self.write_other(self.relay.close_came(self, data[frame.start : frame.end], alone))
                    return
                if not is_ours(data, frame):
                    passing.append(data[frame.start : frame.end])
                elif self is self.relay.carrier:
                    self.relay.watch.heard_pong(frame.end - frame.start)
            else:
                self._take(data, frame, passing)
        if passing:
            self.write_other(b"".join(passing))
        if broken is not None:
            broken.passing = b""
            self.relay.broken(self, broken)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._flush is not None:
            self._flush.cancel()
        super().connection_lost(exc)

    def pass_kept(self, kept: bytes, *, as_it_came: bool) -> None:
        if as_it_came:
            super().pass_kept(kept, as_it_came=True)
            return
        scanner = frames.FrameScanner(
            masked=not self.client, max_payload=self.scanner.max_payload, inspect_below=frames.INSPECT_ALL
        )
        kept = scanner.feed(kept)
        passing: list[bytes] = []
        for frame in scanner.seen:
            self._take(kept, frame, passing)
        self.write_other(b"".join(passing))

    def finish(self) -> bool:
        """Only whole messages pass here."""
        if self._flush is not None:
            self._flush.cancel()
        self._paused()
        return True

    def mend(self) -> bool:
        return self.finish()

    def _take(self, data: bytes, frame: FrameSpan, passing: list[bytes]) -> None:
        """Adds to `passing` what this frame lets through."""
        raw, payload = data[frame.start : frame.end], frames.payload(data, frame)
        if self._parts or not frame.first & frames.FIN:
            self._parts.append(payload)
            self._raw.append(raw)
            if not frame.first & frames.FIN:
                return
            raw, payload = b"".join(self._raw), b"".join(self._parts)
            self._parts.clear()
            self._raw.clear()
        instead = self._filter.feed(payload)
        if instead is None:
            self.relay.noticed(self, payload)
            passing.append(raw)
        elif instead:
            self.relay.noticed(self, payload)
            passing += self._framed(instead)
        if self._filter.has_buffered:
            self._wait()

    def _wait(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
        self._flush = asyncio.get_running_loop().call_later(PAUSE_S, self._paused)

    def _paused(self) -> None:
        if self.other.transport.is_closing() or self.other.close_sent:
            return
        self.write_other(b"".join(self._framed(self._filter.flush())))

    def _framed(self, messages: Sequence[bytes]) -> list[bytes]:
        return [frames.build(frames.TEXT, text, masked=self.other.client) for text in messages]

    def _stop_waiting(self, passing: list[bytes]) -> None:
        if self._flush is not None:
            self._flush.cancel()
        passing += (
            frames.build(frames.TEXT, text, masked=self.other.client) for text in self._filter.flush()
        )
