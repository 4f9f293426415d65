# SPDX-License-Identifier: BSD-2-Clause
"""The socket of an agent that is written for something else than the call's carrier.

To the leg and the relay it is a transport whose far end speaks the carrier's dialect: what they write is
translated and goes to the agent, and what the agent sends reaches them translated. So fail-over, reconnect,
holding sounds and everything else that a call has know nothing of it. Control frames pass as they are.

What of the agent's sound must wait for its time (serializers/translation/playback_queue.py) waits here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from gateway.websocket import frames
from gateway.websocket.frames import FrameError, FrameScanner, FrameSpan
from serializers.agent_dialect import Message
from serializers.translation.translator import Translator

ORDER_S: Final = 0.1
"""Seconds that a carrier's message waits for one before it."""

LATE_S: Final = 0.01
"""Seconds by which sound may be sent later than it is due."""

_BROKEN: Final = bytes((frames.FIN | 0x70 | frames.TEXT, 0))
"""A frame with reserved bits: what stands for one of the agent's that breaks the protocol (RFC 6455 §5.2)."""

_TOO_LONG: Final = bytes((frames.FIN | frames.BINARY, 127)) + (1 << 62).to_bytes(8, "big")
"""The head of a frame that is longer than any limit: what stands for a message of the agent's that is."""


class TranslatedTransport(asyncio.Transport, asyncio.Protocol):
    """The transport of the agent's leg, and the protocol of the agent's socket."""

    def __init__(self, socket: asyncio.Transport, translator: Translator, *, max_message_bytes: int) -> None:
        """Take over `socket`, whose WebSocket handshake is done. It is not read before `resume_reading`."""
        super().__init__()
        self._socket = socket
        self._translator = translator
        self._loop = asyncio.get_running_loop()
        self._protocol: asyncio.BaseProtocol | None = None
        limits: dict[str, Any] = {"max_payload": max_message_bytes, "inspect_below": frames.INSPECT_ALL}
        self._written = _Messages(FrameScanner(masked=True, **limits))
        self._received = _Messages(FrameScanner(masked=False, **limits))
        self._is_reading = False  # as the leg or the relay wants it
        self._is_closed = False  # nobody here wants to hear more of the agent
        self._has_closed = False  # the agent has been sent a close frame: nothing may follow it
        self._rest = b""
        self._release: asyncio.TimerHandle | None = None
        self._reorder: asyncio.TimerHandle | None = None
        socket.set_protocol(self)

    # What the leg and the relay write: the carrier's frames

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Translate the carrier's frames for the agent. They are the gateway's own, and masked."""
        if self._socket.is_closing():
            return
        try:
            self._written.feed(bytes(data), self._agent_receives, self._write_control)
        except FrameError:  # the relay has reported it, and ends the call
            return
        self._write_messages()
        if self._translator.waits_for_order and self._reorder is None:
            self._reorder = self._loop.call_later(ORDER_S, self._flush_order)

    def _agent_receives(self, message: Message) -> None:
        self._translator.carrier_message(message)
        if self._translator.to_agent:
            self._write_messages()

    def _write_control(self, frame: bytes) -> None:
        if frame[0] & 0x0F == frames.CLOSE:
            self._flush_order()
            self._has_closed = True
        self._socket.write(frame)

    def _write_messages(self) -> None:
        messages, self._translator.to_agent = self._translator.to_agent, []
        if messages and not (self._has_closed or self._socket.is_closing()):
            self._socket.write(_framed(messages, masked=True))

    def _flush_order(self) -> None:
        if self._reorder is not None:
            self._reorder.cancel()
            self._reorder = None
        self._translator.flush_order()
        self._write_messages()

    def begin_stream(self) -> None:
        """Note that what is written next comes of another stream of the carrier's, with its own numbers."""
        self._flush_order()
        self._translator.begin_stream()

    # What the agent sends

    def data_received(self, data: bytes) -> None:
        if self._is_closed:
            return
        try:
            self._received.feed(data, self._carrier_receives, self._pass_control)
        except FrameError as error:
            self._finish()
            self._deliver(_TOO_LONG if error.close_code == frames.MESSAGE_TOO_BIG else _BROKEN)
            return
        self._after_messages()

    def _carrier_receives(self, message: Message) -> None:
        self._translator.agent_message(message, self._loop.time())

    def _pass_control(self, frame: bytes) -> None:
        if frame[0] & 0x0F == frames.CLOSE:
            self._finish()
        else:
            self._after_messages()
        self._deliver(frame)

    def _after_messages(self) -> None:
        """Pass on what was translated, and see to what must wait."""
        self._write_messages()
        self._deliver_messages()
        if self._translator.is_full and self._socket.is_reading():
            self._socket.pause_reading()
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_reading or self._is_closed:
            return
        due, timer = self._translator.next_due(), self._release
        if due is None or (timer is not None and timer.when() - due < LATE_S):
            return
        if timer is not None:  # it was set for the end of all sound, and more has come
            timer.cancel()
        self._release = self._loop.call_at(due, self._release_due)

    def _release_due(self) -> None:
        self._release = None
        if not self._is_reading:  # the carrier does not take more: `resume_reading` goes on
            return
        self._translator.advance(self._loop.time())
        self._deliver_messages()
        self._read_again()
        self._schedule()

    def _finish(self) -> None:
        """Pass on all that the agent has said, as it says no more."""
        self._translator.finish()
        self._deliver_messages()

    def _deliver_messages(self) -> None:
        messages, self._translator.to_carrier = self._translator.to_carrier, []
        if messages:
            self._deliver(_framed(messages, masked=False))

    def _deliver(self, data: bytes) -> None:
        if isinstance(self._protocol, asyncio.Protocol):
            self._protocol.data_received(data)

    # What the agent's socket says of itself

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_closed:
            self._translator.finish()
            self._rest = _framed(self._translator.to_carrier, masked=False)
        self._stop()
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(exc)

    def take_rest(self) -> bytes:
        """Return and remove what the agent had said, and was not passed on when it ended the connection."""
        rest, self._rest = self._rest, b""
        return rest

    def _stop(self) -> None:
        """Pass nothing on any more, either way."""
        self._is_closed = True
        for timer in (self._release, self._reorder):
            if timer is not None:
                timer.cancel()
        self._release = self._reorder = None

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    # asyncio.Transport

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the socket says; not the socket itself, which nobody may read past the translation."""
        return default if name == "socket" else self._socket.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._socket.is_closing()

    def close(self) -> None:
        self._stop()
        self._socket.close()

    def abort(self) -> None:
        self._stop()
        self._socket.abort()

    def is_reading(self) -> bool:
        return self._is_reading

    def pause_reading(self) -> None:
        self._is_reading = False
        if not self._socket.is_closing():  # uvloop raises RuntimeError then
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        self._is_reading = True
        self._read_again()
        self._schedule()

    def _read_again(self) -> None:
        if not (self._translator.is_full or self._socket.is_closing() or self._socket.is_reading()):
            self._socket.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._socket.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._socket.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._socket.get_write_buffer_limits()

    def can_write_eof(self) -> bool:
        return False


class _Messages:
    """Puts the frames of one direction together to messages."""

    def __init__(self, scanner: FrameScanner) -> None:
        self._scanner = scanner
        self._fragments: list[bytes] = []
        self._is_text = True

    def feed(
        self, data: bytes, on_message: Callable[[Message], None], on_control: Callable[[bytes], None]
    ) -> None:
        """Call back for each message and each control frame, in order. Raises FrameError."""
        scanner, broken = self._scanner, None
        try:
            data = scanner.feed(data)
        except FrameError as error:
            broken, data = error, error.passing
        spans, scanner.spans = scanner.spans, []
        for span in spans:
            if span.first_byte & 0x08:
                on_control(data[span.start : span.end])
            else:
                self._add(data, span, on_message)
        if broken is not None:
            raise broken

    def _add(self, data: bytes, span: FrameSpan, on_message: Callable[[Message], None]) -> None:
        payload = frames.payload(data, span)
        if span.opcode != frames.CONTINUATION:
            self._is_text = span.opcode == frames.TEXT
        if span.first_byte & frames.FIN and not self._fragments:
            on_message(Message(payload, self._is_text))
            return
        self._fragments.append(payload)
        if span.first_byte & frames.FIN:
            payload = b"".join(self._fragments)
            self._fragments.clear()
            on_message(Message(payload, self._is_text))


def _framed(messages: Iterable[Message], *, masked: bool) -> bytes:
    return b"".join(
        frames.build(frames.TEXT if message.is_text else frames.BINARY, message.data, masked=masked)
        for message in messages
    )
