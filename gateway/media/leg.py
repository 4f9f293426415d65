# SPDX-License-Identifier: BSD-2-Clause
"""A leg: one WebSocket side of a call, from its handshake until it is coupled to the other.

While a leg stands alone it speaks for itself: it answers pings, notices a close, and shows messages to
whoever reads its opening. The data frames that come are kept as they came, to be passed on
byte for byte once there is somebody to pass them to. The relay (gateway/media/relay.py) then takes the
transport over, and this object is done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.media.direct_transport import HIGH_WATER_BYTES, DirectTransport
from gateway.media.disconnect import CONNECTION_LOST, Disconnect
from gateway.websocket import frames
from gateway.websocket.frames import FrameError, FrameScanner, FrameSpan

LINGER_S = 2.0
"""How long a far end has to take what is left to say to it: one that does not read would keep its socket."""


class Leg(asyncio.Protocol):
    """One WebSocket connection that is not coupled yet.

    `client`: we are the client of it (the agent's leg), so what we send is masked and what comes is not.
    `opening_bytes`: the most that may come while messages are read. `early_bytes`: the most that is kept
    afterwards; reading pauses there. `on_gone` is called once, when the far end has left.
    `again`: the walker of a leg that was coupled before and is held anew, and its opening, which is kept
    before all that comes; what is left of a message that has begun to pass is not.
    """

    def __init__(
        self,
        transport: asyncio.Transport | DirectTransport,
        *,
        client: bool,
        opening_bytes: int,
        early_bytes: int,
        on_disconnect: Callable[[Disconnect], None],
        again: tuple[FrameScanner, bytes] | None = None,
    ) -> None:
        self.transport = transport
        self.client = client
        self._early_bytes = early_bytes
        self._on_disconnect: Callable[[Disconnect], None] | None = on_disconnect
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._early: PreconnectBuffer | None = None
        self._fragments: list[bytes] = []
        self._binary = False  # the message that the fragments belong to
        self._messages: deque[str | bytes] | None = deque() if again is None else None
        self._read = 0  # how many of them
        self._waiter: asyncio.Future[None] | None = None
        self._offence: int | None = None  # the close code due to a far end that broke the protocol
        if again is None:
            self.scanner = FrameScanner(
                masked=not client, max_payload=opening_bytes, inspect_below=frames.INSPECT_ALL
            )
            self._half = False
        else:
            self.scanner, opening = again
            self.scanner.inspect_below = frames.INSPECT_ALL
            self._kept.append(opening)
            self._half = self.scanner.inside_message  # whose beginning went to somebody who is gone
        if not isinstance(transport, DirectTransport):  # which has its marks
            transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        transport.set_protocol(self)

    async def receive(self) -> str | bytes:
        """The next whole message; bytes for a binary one. For one reader, who bounds the wait."""
        assert self._messages is not None, "the leg is held already"
        while not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._read += 1
        return self._messages.popleft()

    async def whole(self) -> None:
        """Waits for the end of a message whose beginning was passed on before the leg was held again."""
        while self._half or self.scanner.left:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def hold(self, max_message_bytes: int) -> None:
        """From here on messages are kept unread, until a relay takes them."""
        self._messages = None
        self.scanner.max_payload = max_message_bytes

    def keep_sound(self, most: int | None, is_sound: Callable[[bytes], bool]) -> None:
        """Of the messages with sound that have come and still come, the newest `most` are kept; None: all.

        `is_sound`: which messages these are. For a leg that is held.
        """
        if self._early is None:
            if most is None:
                return
            self._early = PreconnectBuffer(is_sound)
            self._kept = self._early.begin(self._kept, masked=not self.client)
        self._kept_bytes -= self._early.keep(most)
        self._read_on()

    @property
    def writable(self) -> bool:
        """Whether anything may still be written."""
        return not self.transport.is_closing()

    takes_message = writable  # nobody else writes messages here

    def change(self, rewrite: Callable[[bytes], bytes | None]) -> None:
        """Has `rewrite` see each kept text message, from the first to the one that it puts another for.

        None leaves a message as it came. For a leg that is held, before it is taken.
        """
        raw = b"".join(self._kept)
        began, parts = 0, list[bytes]()
        for frame in self._frames_of(raw):
            began = frame.start if not parts else began
            parts.append(frames.payload(raw, frame))
            if not frame.first & frames.FIN:
                continue
            instead = rewrite(b"".join(parts))
            parts.clear()
            if instead is not None:
                changed = frames.build(frames.TEXT, instead, masked=not self.client)
                self._kept[:] = [raw[:began], changed, raw[frame.end :]]
                return

    def opening(self) -> bytes:
        """The frames of the messages that were read, as they will pass; for a leg that is not taken yet."""
        raw = b"".join(self._kept)
        ends = [0] + [frame.end for frame in self._frames_of(raw) if frame.first & frames.FIN]
        return raw[: ends[self._read]]

    def part_with_opening(self) -> bytes:
        """As `opening`, and it is not kept any more; for a leg whose far side has read an opening already."""
        opening = self.opening()
        self._kept[:] = [b"".join(self._kept)[len(opening) :]]
        self._kept_bytes -= len(opening)
        return opening

    def hand_over(self, on_disconnect: Callable[[Disconnect], None]) -> bool:
        """From now on another is told that the far end has left; False where it has."""
        if self._on_disconnect is None or self.transport.is_closing():
            return False
        self._on_disconnect = on_disconnect
        return True

    def lend(self) -> int | None:
        """The descriptor of its socket, for another process to make a leg of; till `stay` nothing is read.

        None where that cannot be: the socket is not plain TCP, has something unsent, or nobody is there.
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

    def everything(self) -> bytes:
        """All data that has come, as it came, and what there is of a frame that has not come whole."""
        return b"".join(self._kept) + self.scanner.rest

    def stay(self) -> None:
        """It is read on, if it was lent and is still here."""
        if self._on_disconnect is not None:
            self._read_on()

    def part(self) -> None:
        """Lets its socket go without a word: it is another's."""
        self._on_disconnect = None
        self.transport.close()

    def _frames_of(self, raw: bytes) -> list[frames.FrameSpan]:
        scanner = FrameScanner(masked=not self.client, max_payload=1 << 62, inspect_below=frames.INSPECT_ALL)
        scanner.feed(raw)
        return scanner.seen

    def take(self) -> bytes:
        """Every data frame that has come so far, as it came; the relay's first words to the other leg."""
        kept = b"".join(self._kept)
        self._kept.clear()
        if self._early is not None:
            kept += self._early.take()
        self._on_disconnect = None
        return kept

    def close(self, code: int, reason: str) -> None:
        """Says goodbye and closes; for a leg that is not coupled. Never waits, may be called again.

        `code`: a far end that broke the protocol is told so instead (RFC 6455 §7.1.7).
        """
        self._on_disconnect = None
        if not self.transport.is_closing():
            code = self._offence or code
            self.transport.write(frames.build_close(code, reason, masked=self.client))
            self.transport.close()
            asyncio.get_running_loop().call_later(LINGER_S, self.transport.abort)

    # What the transport says

    def data_received(self, data: bytes) -> None:
        if self._on_disconnect is None:
            return
        try:
            chunk = self.scanner.feed(data)
            for frame in self.scanner.seen:
                self._take_frame(chunk, frame)
        except FrameError as error:
            self._offence = error.close_code
            self._gone(Disconnect(frames.ABNORMAL, error.reason, offence=error.close_code))
        self.scanner.seen.clear()
        if self._messages is None:
            self._wake()
        if self._is_full:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone(CONNECTION_LOST)

    def pause_writing(self) -> None:
        """Only pongs come to so much: whoever asks for so many and reads none is not listening."""
        self._offence = frames.POLICY_VIOLATION
        self._gone(
            Disconnect(frames.ABNORMAL, "the answers to its pings are not read", offence=self._offence)
        )

    def _take_frame(self, chunk: bytes, frame: frames.FrameSpan) -> None:
        if frame.opcode == frames.CLOSE:
            code, reason = frames.read_close(frames.payload(chunk, frame))
            self._gone(Disconnect(code, reason))
        elif frame.opcode == frames.PING:
            self.transport.write(frames.build(frames.PONG, frames.payload(chunk, frame), masked=self.client))
        elif self._half and frame.opcode != frames.PONG:
            self._half = not frame.first & frames.FIN
        elif frame.opcode != frames.PONG:
            self._kept_bytes += frame.end - frame.start
            if self._early is not None:
                self._kept_bytes -= self._early.add(chunk, frame)
                return
            self._kept.append(chunk[frame.start : frame.end])
            if self._messages is not None:
                self._take_fragment(chunk, frame)

    def _take_fragment(self, chunk: bytes, frame: frames.FrameSpan) -> None:
        assert self._messages is not None
        if self._kept_bytes > self.scanner.max_payload:
            raise FrameError(
                frames.MESSAGE_TOO_BIG, f"opening is larger than {self.scanner.max_payload} bytes"
            )
        if frame.opcode != frames.CONTINUATION:
            self._binary = frame.opcode == frames.BINARY
        self._fragments.append(frames.payload(chunk, frame))
        if frame.first & frames.FIN:
            data = b"".join(self._fragments)
            self._fragments.clear()
            try:
                self._messages.append(data if self._binary else data.decode())
            except UnicodeDecodeError:
                raise FrameError(frames.NOT_UTF8, "text message is not UTF-8") from None
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def _is_full(self) -> bool:
        return self._messages is None and self._kept_bytes + self.scanner.held > self._early_bytes

    def _read_on(self) -> None:
        """Room has been made."""
        if not self._is_full and not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    def _gone(self, gone: Disconnect) -> None:
        if self._on_disconnect is not None:
            on_disconnect, self._on_disconnect = self._on_disconnect, None
            on_disconnect(gone)


class PreconnectBuffer:
    """The frames of one leg that came after its opening, as they came."""

    __slots__ = ("_frames", "_is_sound", "_most", "_number", "_sounds")

    def __init__(self, is_sound: Callable[[bytes], bool]) -> None:
        self._is_sound = is_sound
        self._most: int | None = None
        self._number = 0
        self._frames: dict[int, bytes] = {}  # in the order in which they came
        self._sounds: deque[int] = deque()  # those of them that are sound

    def begin(self, kept: list[bytes], *, masked: bool) -> list[bytes]:
        """Takes over what came with the opening and is none of it; what is left is the opening."""
        scanner = FrameScanner(masked=masked, max_payload=1 << 62, inspect_below=frames.INSPECT_ALL)
        raw = scanner.feed(b"".join(kept))
        for place, frame in enumerate(scanner.seen):
            if self._is_sound(frames.payload(raw, frame)):
                for later in scanner.seen[place:]:
                    self.add(raw, later)
                return [raw[: frame.start]]
        return kept

    def add(self, chunk: bytes, frame: FrameSpan) -> int:
        """Keeps a data frame; the bytes that were thrown away for it."""
        self._number += 1
        self._frames[self._number] = chunk[frame.start : frame.end]
        # A fragment is no message, so it is none of those that may be thrown away.
        if frame.first & frames.FIN and self._is_sound(frames.payload(chunk, frame)):
            self._sounds.append(self._number)
        return self._forget()

    def keep(self, most: int | None) -> int:
        """From now on no more than the newest `most` messages of sound; None: all. Gives the bytes freed."""
        self._most = most
        return self._forget()

    def take(self) -> bytes:
        """Everything that is kept, and nothing is kept any more."""
        kept = b"".join(self._frames.values())
        self._frames.clear()
        self._sounds.clear()
        return kept

    def _forget(self) -> int:
        freed = 0
        while self._most is not None and len(self._sounds) > self._most:
            freed += len(self._frames.pop(self._sounds.popleft()))
        return freed
