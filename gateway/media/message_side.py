# SPDX-License-Identifier: BSD-2-Clause
"""A side of a relay that passes on messages instead of bytes, each of which a transform may change.

Chosen once per call, for agents with `media = "messages"`. It costs about twice a relay of bytes and gives
what that cannot: a transform for each direction (serializers/transforms.py) decides what reaches the other
side. Messages that the transform does not change are passed on as they came, and so are control frames.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.media.keepalive import is_own_pong
from gateway.media.leg import Leg
from gateway.media.ports import SideObserver
from gateway.media.relay_side import RelaySide
from gateway.websocket import frames
from gateway.websocket.frames import FrameError, FrameSpan
from serializers.transforms import Transform

FLUSH_AFTER_S = 0.1
"""How long a far end sends nothing before the part of a chunk that its transform holds is passed on."""


class MessageSide(RelaySide):
    """A side whose messages go through a transform."""

    __slots__ = ("_flush_timer", "_payloads", "_raw_frames", "_transform")

    min_inspect_below = frames.INSPECT_ALL

    def __init__(self, observer: SideObserver[RelaySide], leg: Leg, transform: Transform) -> None:
        super().__init__(observer, leg)
        self._transform = transform
        # The fragments of an incomplete message: their payloads, and the frames as they came.
        self._payloads: list[bytes] = []
        self._raw_frames: list[bytes] = []
        self._flush_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        scanner = self.scanner
        broken = None
        try:
            data = scanner.feed(data)
        except FrameError as error:
            broken, data = error, error.passing
        spans = scanner.spans
        scanner.spans = []
        passing: list[bytes] = []
        for span in spans:
            if span.first_byte & 0x08:
                if span.opcode == frames.CLOSE:
                    # What the transform holds goes first: nothing may follow a close (RFC 6455 §5.5.1).
                    self._cancel_flush()
                    passing += self._framed(self._transform.flush())
                    self.write_other(b"".join(passing))
                    alone = FrameSpan(span.first_byte, 0, span.body - span.start, span.end - span.start)
                    self.write_other(self.observer.close_received(self, data[span.start : span.end], alone))
                    return
                if not is_own_pong(data, span):
                    passing.append(data[span.start : span.end])
                else:
                    self.observer.pong_received(self, span.end - span.start)
            else:
                self._transform_frame(data, span, passing)
        if passing:
            self.write_other(b"".join(passing))
        if broken is not None:
            broken.passing = b""
            self.observer.protocol_error(self, broken)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_flush()
        super().connection_lost(exc)

    def pass_buffered(self, buffered: bytes, *, transformed: bool) -> None:
        if not transformed:
            super().pass_buffered(buffered, transformed=False)
            return
        scanner = frames.FrameScanner(
            masked=not self.client, max_payload=self.scanner.max_payload, inspect_below=frames.INSPECT_ALL
        )
        buffered = scanner.feed(buffered)
        passing: list[bytes] = []
        for span in scanner.spans:
            self._transform_frame(buffered, span, passing)
        self.write_other(b"".join(passing))

    def flush(self) -> bool:
        """Pass on what the transform holds. Return True: only whole messages pass here."""
        self._cancel_flush()
        self._flush_transform()
        return True

    def complete_message(self) -> bool:
        """Do nothing but `flush`: an incomplete message has not been passed on at all."""
        return self.flush()

    def _transform_frame(self, data: bytes, span: FrameSpan, passing: list[bytes]) -> None:
        """Append to `passing` what is to be passed on after the frame at `span` in `data`."""
        raw, payload = data[span.start : span.end], frames.payload(data, span)
        if self._payloads or not span.first_byte & frames.FIN:
            self._payloads.append(payload)
            self._raw_frames.append(raw)
            if not span.first_byte & frames.FIN:
                return
            raw, payload = b"".join(self._raw_frames), b"".join(self._payloads)
            self._payloads.clear()
            self._raw_frames.clear()
        if self.observer.is_own_mark(self, payload):
            return
        replacement = self._transform.feed(payload)
        if replacement is None:  # the message passes as it came
            self.observer.message_passed(self, payload, len(data) - span.end)
            passing.append(raw)
        elif replacement:
            self.observer.message_passed(self, payload, len(data) - span.end)
            passing += self._framed(replacement)
        if self._transform.has_buffered:
            self._cancel_flush()
            self._flush_timer = asyncio.get_running_loop().call_later(FLUSH_AFTER_S, self._flush_transform)

    def _flush_transform(self) -> None:
        if self.other.transport.is_closing() or self.other.close_sent:
            return
        self.write_other(b"".join(self._framed(self._transform.flush())))

    def _cancel_flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()

    def _framed(self, messages: Sequence[bytes]) -> list[bytes]:
        return [frames.build(frames.TEXT, text, masked=self.other.client) for text in messages]
