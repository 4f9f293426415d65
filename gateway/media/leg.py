# SPDX-License-Identifier: BSD-2-Clause
"""A leg: one WebSocket side of a call, from its handshake until a relay joins it to the other.

A leg answers pings, notices a close, and returns messages to the code that reads the carrier's opening. The
data frames that come are buffered as they came, so that they can be passed on byte for byte. A relay
(gateway/media/relay.py) then takes over the transport and the scanner, and the leg is done.

A leg has two phases. It begins by collecting messages for `receive`; `buffer_messages` ends that, and from
then on messages are only buffered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise

from gateway.media.direct_transport import HIGH_WATER_BYTES, DirectTransport
from gateway.media.disconnect import Disconnect, disconnect_of
from gateway.websocket import frames
from gateway.websocket.frames import FrameError, FrameScanner, FrameSpan

LINGER_S = 2.0
"""How long a far end has to read the close frame. One that does not read would keep the socket open."""

_UNLIMITED = 1 << 62


class Leg(asyncio.Protocol):
    """One WebSocket connection that no relay has taken over yet."""

    def __init__(
        self,
        transport: asyncio.Transport | DirectTransport,
        *,
        client: bool,
        max_opening_bytes: int,
        max_buffered_bytes: int,
        on_disconnect: Callable[[Disconnect], None],
        resumed_from: tuple[FrameScanner, bytes] | None = None,
    ) -> None:
        """Take over `transport`.

        `client`: the gateway is the WebSocket client (the agent's leg): what it sends is masked, what it
        receives is not. `max_opening_bytes`: how much may come while messages are collected.
        `max_buffered_bytes`: how much is buffered afterwards; reading pauses there. `on_disconnect` is called
        at most once, when the far end has left.
        `resumed_from`: for a side that a relay has released, its scanner, and the opening, which is buffered
        before all that comes. Such a leg only buffers. The rest of a message that the relay has begun to pass
        on is discarded.
        """
        self.transport = transport
        self.client = client
        self._max_buffered_bytes = max_buffered_bytes
        self._on_disconnect: Callable[[Disconnect], None] | None = on_disconnect
        self._buffered: list[bytes] = []
        self._buffered_bytes = 0
        self._audio_buffer: PreconnectBuffer | None = None
        self._fragments: list[bytes] = []
        self._is_binary = False  # the message that the fragments belong to
        self._messages: deque[str | bytes] | None = deque() if resumed_from is None else None  # for `receive`
        self._received = 0  # the number of messages that `receive` has returned
        self._waiter: asyncio.Future[None] | None = None
        self._violation_code: int | None = None  # the close code due to a far end that broke the protocol
        if resumed_from is None:
            self.scanner = FrameScanner(
                masked=not client, max_payload=max_opening_bytes, inspect_below=frames.INSPECT_ALL
            )
            self._skips_message = False
        else:
            self.scanner, opening = resumed_from
            self.scanner.inspect_below = frames.INSPECT_ALL
            self._buffered.append(opening)
            self._skips_message = self.scanner.inside_message  # its beginning went to the lost side
        if not isinstance(transport, DirectTransport):  # a DirectTransport has these marks already
            transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        transport.set_protocol(self)

    async def receive(self) -> str | bytes:
        """Return the next whole message; bytes for a binary one.

        For one reader, before `buffer_messages`. Waits without a limit: the caller sets one.
        """
        assert self._messages is not None, "the leg only buffers"
        while not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._received += 1
        return self._messages.popleft()

    async def wait_message_end(self) -> None:
        """Wait until the message has ended that the relay before this leg had begun to pass on."""
        while self._skips_message or self.scanner.left:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def open_with(self, numbers: Sequence[int]) -> None:
        """Make some of the messages that `receive` has returned the opening; the others come right behind it.

        `numbers`: theirs, from 0, in the order in which they came.
        """
        raw = b"".join(self._buffered)
        starts = [0] + [span.end for span in self._spans_of(raw) if span.first_byte & frames.FIN]
        received = [raw[start:end] for start, end in pairwise(starts[: self._received + 1])]
        first = [received[number] for number in numbers]
        others = [message for number, message in enumerate(received) if number not in numbers]
        self._buffered[:] = [*first, *others, raw[starts[self._received] :]]
        self._received = len(first)

    def buffer_messages(self, max_message_bytes: int) -> None:
        """Buffer messages from now on, until a relay takes them."""
        self._messages = None
        self.scanner.max_payload = max_message_bytes

    def limit_buffered_audio(self, max_messages: int | None, is_audio: Callable[[bytes], bool]) -> None:
        """Keep only the newest `max_messages` messages with audio, past and future ones; None keeps all.

        `is_audio` returns True for the payload of such a message. For a leg that only buffers.
        """
        if self._audio_buffer is None:
            if max_messages is None:
                return
            self._audio_buffer = PreconnectBuffer(is_audio)
            self._buffered = self._audio_buffer.take_over(self._buffered, masked=not self.client)
        self._buffered_bytes -= self._audio_buffer.limit(max_messages)
        self._resume_reading()

    @property
    def is_writable(self) -> bool:
        """Whether anything may still be written."""
        return not self.transport.is_closing()

    can_send_message = is_writable  # nothing else writes messages to a leg

    def rewrite_buffered(self, rewrite: Callable[[bytes], bytes | None]) -> None:
        """Replace the first buffered text message for which `rewrite` returns another payload.

        `rewrite` receives each payload in turn, and returns None for a message that stays as it is. For a leg
        that only buffers, before it is taken.
        """
        raw = b"".join(self._buffered)
        message_start, parts = 0, list[bytes]()
        for span in self._spans_of(raw):
            message_start = span.start if not parts else message_start
            parts.append(frames.payload(raw, span))
            if not span.first_byte & frames.FIN:
                continue
            replacement = rewrite(b"".join(parts))
            parts.clear()
            if replacement is not None:
                frame = frames.build(frames.TEXT, replacement, masked=not self.client)
                self._buffered[:] = [raw[:message_start], frame, raw[span.end :]]
                return

    def opening_frames(self) -> bytes:
        """Return the frames of the opening, as they came: they stay buffered.

        It is the messages that `receive` has returned, or those of them that `open_with` named.
        """
        raw = b"".join(self._buffered)
        ends = [0] + [span.end for span in self._spans_of(raw) if span.first_byte & frames.FIN]
        return raw[: ends[self._received]]

    def take_opening(self) -> bytes:
        """Return `opening_frames` and remove them, because the other side has had an opening already."""
        opening = self.opening_frames()
        self._buffered[:] = [b"".join(self._buffered)[len(opening) :]]
        self._buffered_bytes -= len(opening)
        return opening

    def set_on_disconnect(self, on_disconnect: Callable[[Disconnect], None]) -> bool:
        """Replace the callback for a far end that leaves. Return False if it has left already."""
        if self._on_disconnect is None or self.transport.is_closing():
            return False
        self._on_disconnect = on_disconnect
        return True

    # The hand-over to another process

    def detach_fd(self) -> int | None:
        """Pause reading and return the descriptor of the socket, for another process to make a leg of.

        `resume` undoes it. Return None, with no effect, if the socket cannot be handed over: it is not plain
        TCP, has unsent bytes, or its far end has left.
        """
        transport = self.transport
        if (
            self._on_disconnect is None
            or isinstance(transport, DirectTransport)
            or transport.get_extra_info("sslcontext") is not None
            or transport.is_closing()
            or transport.get_write_buffer_size()
        ):
            return None
        transport.pause_reading()
        return int(transport.get_extra_info("socket").fileno())

    def hold(self) -> bool:
        """Pause reading, for another to go on with the transport. `resume` undoes it.

        Return False, with no effect, if the far end has left.
        """
        transport = self.transport
        if self._on_disconnect is None or isinstance(transport, DirectTransport) or transport.is_closing():
            return False
        transport.pause_reading()
        return True

    def give_up(self) -> asyncio.Transport:
        """Return the transport, after `hold`, and have nothing to do with it any more."""
        assert not isinstance(self.transport, DirectTransport)
        self._on_disconnect = None
        self._buffered.clear()
        return self.transport

    def buffered_data(self) -> bytes:
        """Return all buffered data frames as they came, then the part of a frame that has not come whole."""
        return b"".join(self._buffered) + self.scanner.pending

    def resume(self) -> None:
        """Read on after `detach_fd`, unless the leg was discarded or its far end has left."""
        if self._on_disconnect is not None:
            self._resume_reading()

    def discard(self) -> None:
        """Close this process's copy of the socket without a close frame: it belongs to another process."""
        self._on_disconnect = None
        self.transport.close()

    # The end of the leg

    def take_buffered(self) -> bytes:
        """Return and remove all buffered data frames, as they came; the relay passes them on first.

        From now on the leg reports no disconnect: the relay does.
        """
        buffered = b"".join(self._buffered)
        self._buffered.clear()
        if self._audio_buffer is not None:
            buffered += self._audio_buffer.take()
        self._on_disconnect = None
        return buffered

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and close; for a leg that no relay has taken. May be called again, never waits.

        A far end that broke the protocol receives the code of its violation instead (RFC 6455 §7.1.7).
        """
        self._on_disconnect = None
        if not self.transport.is_closing():
            code = self._violation_code or code
            self.transport.write(frames.build_close(code, reason, masked=self.client))
            self.transport.close()
            asyncio.get_running_loop().call_later(LINGER_S, self.transport.abort)

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        if self._on_disconnect is None:
            return
        try:
            chunk = self.scanner.feed(data)
            for span in self.scanner.spans:
                self._process_frame(chunk, span)
        except FrameError as error:
            self._violation_code = error.close_code
            self._disconnect(Disconnect(frames.ABNORMAL, error.reason, violation_code=error.close_code))
        self.scanner.spans.clear()
        if self._messages is None:
            self._wake()
        if self._is_full:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disconnect(disconnect_of(exc))

    def pause_writing(self) -> None:
        """End the leg: its far end sends pings and reads no answers, as nothing but pongs is written here."""
        self._violation_code = frames.POLICY_VIOLATION
        self._disconnect(
            Disconnect(
                frames.ABNORMAL, "the answers to its pings are not read", violation_code=self._violation_code
            )
        )

    def _process_frame(self, chunk: bytes, span: FrameSpan) -> None:
        if span.opcode == frames.CLOSE:
            code, reason = frames.read_close(frames.payload(chunk, span))
            self._disconnect(Disconnect(code, reason))
        elif span.opcode == frames.PING:
            self.transport.write(frames.build(frames.PONG, frames.payload(chunk, span), masked=self.client))
        elif self._skips_message and span.opcode != frames.PONG:
            self._skips_message = not span.first_byte & frames.FIN
        elif span.opcode != frames.PONG:
            self._buffered_bytes += span.end - span.start
            if self._audio_buffer is not None:
                self._buffered_bytes -= self._audio_buffer.add(chunk, span)
                return
            self._buffered.append(chunk[span.start : span.end])
            if self._messages is not None:
                self._collect_fragment(chunk, span)

    def _collect_fragment(self, chunk: bytes, span: FrameSpan) -> None:
        assert self._messages is not None
        if self._buffered_bytes > self.scanner.max_payload:
            raise FrameError(
                frames.MESSAGE_TOO_BIG, f"opening is larger than {self.scanner.max_payload} bytes"
            )
        if span.opcode != frames.CONTINUATION:
            self._is_binary = span.opcode == frames.BINARY
        self._fragments.append(frames.payload(chunk, span))
        if span.first_byte & frames.FIN:
            data = b"".join(self._fragments)
            self._fragments.clear()
            try:
                self._messages.append(data if self._is_binary else data.decode())
            except UnicodeDecodeError:
                raise FrameError(frames.NOT_UTF8, "text message is not UTF-8") from None
            self._wake()

    def _spans_of(self, raw: bytes) -> list[FrameSpan]:
        scanner = FrameScanner(
            masked=not self.client, max_payload=_UNLIMITED, inspect_below=frames.INSPECT_ALL
        )
        scanner.feed(raw)
        return scanner.spans

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def _is_full(self) -> bool:
        return self._messages is None and (
            self._buffered_bytes + self.scanner.pending_bytes > self._max_buffered_bytes
        )

    def _resume_reading(self) -> None:
        if not self._is_full and not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    def _disconnect(self, disconnect: Disconnect) -> None:
        if self._on_disconnect is not None:
            on_disconnect, self._on_disconnect = self._on_disconnect, None
            on_disconnect(disconnect)


class PreconnectBuffer:
    """The data frames of one leg after its opening, of whose audio messages only the newest are kept."""

    __slots__ = ("_audio_numbers", "_frames", "_is_audio", "_last_number", "_max_messages")

    def __init__(self, is_audio: Callable[[bytes], bool]) -> None:
        """`is_audio` returns True for the payload of a message with audio."""
        self._is_audio = is_audio
        self._max_messages: int | None = None
        self._last_number = 0
        self._frames: dict[int, bytes] = {}  # by number, in the order in which they came
        self._audio_numbers: deque[int] = deque()

    def take_over(self, buffered: list[bytes], *, masked: bool) -> list[bytes]:
        """Add the frames in `buffered` from the first audio message on. Return those before it."""
        scanner = FrameScanner(masked=masked, max_payload=_UNLIMITED, inspect_below=frames.INSPECT_ALL)
        raw = scanner.feed(b"".join(buffered))
        for number, span in enumerate(scanner.spans):
            if self._is_audio(frames.payload(raw, span)):
                for later in scanner.spans[number:]:
                    self.add(raw, later)
                return [raw[: span.start]]
        return buffered

    def add(self, chunk: bytes, span: FrameSpan) -> int:
        """Add the data frame at `span` in `chunk`. Return the bytes that were dropped for it."""
        self._last_number += 1
        self._frames[self._last_number] = chunk[span.start : span.end]
        # A fragment is not a whole message, so it cannot be dropped by itself.
        if span.first_byte & frames.FIN and self._is_audio(frames.payload(chunk, span)):
            self._audio_numbers.append(self._last_number)
        return self._drop()

    def limit(self, max_messages: int | None) -> int:
        """Keep the newest `max_messages` audio messages, None for all. Return the bytes that were dropped."""
        self._max_messages = max_messages
        return self._drop()

    def take(self) -> bytes:
        """Return and remove all frames, as they came."""
        buffered = b"".join(self._frames.values())
        self._frames.clear()
        self._audio_numbers.clear()
        return buffered

    def _drop(self) -> int:
        dropped = 0
        while self._max_messages is not None and len(self._audio_numbers) > self._max_messages:
            dropped += len(self._frames.pop(self._audio_numbers.popleft()))
        return dropped
