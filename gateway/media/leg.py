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

from gateway.media import frames
from gateway.media.direct import HIGH_WATER_BYTES, Direct
from gateway.media.early import Early
from gateway.media.ends import LOST, Gone
from gateway.media.frames import FrameError, Walker

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
        transport: asyncio.Transport | Direct,
        *,
        client: bool,
        opening_bytes: int,
        early_bytes: int,
        on_gone: Callable[[Gone], None],
        again: tuple[Walker, bytes] | None = None,
    ) -> None:
        self.transport = transport
        self.client = client
        self._early_bytes = early_bytes
        self._on_gone: Callable[[Gone], None] | None = on_gone
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._early: Early | None = None
        self._fragments: list[bytes] = []
        self._binary = False  # the message that the fragments belong to
        self._messages: deque[str | bytes] | None = deque() if again is None else None
        self._read = 0  # how many of them
        self._waiter: asyncio.Future[None] | None = None
        self._offence: int | None = None  # the close code due to a far end that broke the protocol
        if again is None:
            self.walker = Walker(masked=not client, max_payload=opening_bytes, look_below=frames.LOOK_AT_ALL)
            self._half = False
        else:
            self.walker, opening = again
            self.walker.look_below = frames.LOOK_AT_ALL
            self._kept.append(opening)
            self._half = self.walker.inside_message  # whose beginning went to somebody who is gone
        if not isinstance(transport, Direct):  # which has its marks
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
        while self._half or self.walker.left:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def hold(self, max_message_bytes: int) -> None:
        """From here on messages are kept unread, until a relay takes them."""
        self._messages = None
        self.walker.max_payload = max_message_bytes

    def keep_sound(self, most: int | None, is_sound: Callable[[bytes], bool]) -> None:
        """Of the messages with sound that have come and still come, the newest `most` are kept; None: all.

        `is_sound`: which messages these are. For a leg that is held.
        """
        if self._early is None:
            if most is None:
                return
            self._early = Early(is_sound)
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

    def hand_over(self, on_gone: Callable[[Gone], None]) -> bool:
        """From now on another is told that the far end has left; False where it has."""
        if self._on_gone is None or self.transport.is_closing():
            return False
        self._on_gone = on_gone
        return True

    def lend(self) -> int | None:
        """The descriptor of its socket, for another process to make a leg of; till `stay` nothing is read.

        None where that cannot be: the socket is not plain TCP, has something unsent, or nobody is there.
        """
        transport = self.transport
        if (
            self._on_gone is None
            or isinstance(transport, Direct)
            or transport.get_extra_info("sslcontext") is not None
            or transport.is_closing()
            or transport.get_write_buffer_size()
        ):
            return None
        transport.pause_reading()
        return int(transport.get_extra_info("socket").fileno())

    def everything(self) -> bytes:
        """All data that has come, as it came, and what there is of a frame that has not come whole."""
        return b"".join(self._kept) + self.walker.rest

    def stay(self) -> None:
        """It is read on, if it was lent and is still here."""
        if self._on_gone is not None:
            self._read_on()

    def part(self) -> None:
        """Lets its socket go without a word: it is another's."""
        self._on_gone = None
        self.transport.close()

    def _frames_of(self, raw: bytes) -> list[frames.Seen]:
        walker = Walker(masked=not self.client, max_payload=1 << 62, look_below=frames.LOOK_AT_ALL)
        walker.feed(raw)
        return walker.seen

    def take(self) -> bytes:
        """Every data frame that has come so far, as it came; the relay's first words to the other leg."""
        kept = b"".join(self._kept)
        self._kept.clear()
        if self._early is not None:
            kept += self._early.take()
        self._on_gone = None
        return kept

    def close(self, code: int, reason: str) -> None:
        """Says goodbye and closes; for a leg that is not coupled. Never waits, may be called again.

        `code`: a far end that broke the protocol is told so instead (RFC 6455 §7.1.7).
        """
        self._on_gone = None
        if not self.transport.is_closing():
            code = self._offence or code
            self.transport.write(frames.build_close(code, reason, masked=self.client))
            self.transport.close()
            asyncio.get_running_loop().call_later(LINGER_S, self.transport.abort)

    # What the transport says

    def data_received(self, data: bytes) -> None:
        if self._on_gone is None:
            return
        try:
            chunk = self.walker.feed(data)
            for frame in self.walker.seen:
                self._take_frame(chunk, frame)
        except FrameError as error:
            self._offence = error.close_code
            self._gone(Gone(frames.ABNORMAL, error.reason, offence=error.close_code))
        self.walker.seen.clear()
        if self._messages is None:
            self._wake()
        if self._is_full:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone(LOST)

    def pause_writing(self) -> None:
        """Only pongs come to so much: whoever asks for so many and reads none is not listening."""
        self._offence = frames.POLICY_VIOLATION
        self._gone(Gone(frames.ABNORMAL, "the answers to its pings are not read", offence=self._offence))

    def _take_frame(self, chunk: bytes, frame: frames.Seen) -> None:
        if frame.opcode == frames.CLOSE:
            code, reason = frames.read_close(frames.payload(chunk, frame))
            self._gone(Gone(code, reason))
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

    def _take_fragment(self, chunk: bytes, frame: frames.Seen) -> None:
        assert self._messages is not None
        if self._kept_bytes > self.walker.max_payload:
            raise FrameError(
                frames.MESSAGE_TOO_BIG, f"opening is larger than {self.walker.max_payload} bytes"
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
        return self._messages is None and self._kept_bytes + self.walker.held > self._early_bytes

    def _read_on(self) -> None:
        """Room has been made."""
        if not self._is_full and not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    def _gone(self, gone: Gone) -> None:
        if self._on_gone is not None:
            on_gone, self._on_gone = self._on_gone, None
            on_gone(gone)
