# SPDX-License-Identifier: BSD-2-Clause
"""One end of a WebSocket, by hand: sends any bytes, and keeps every byte that it hears."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct

from gateway.simulator.waiting import WAIT_S
from tests.harness.frames import CLOSE, PONG, TEXT, Frame, close_frame, frame, split
from tests.harness.socket_servers import abort_connection

ABNORMAL_CLOSE = (1006, "")
"""What `closed` tells of a socket that ended without a close frame."""


def read_before_reset(reader: asyncio.StreamReader) -> bytes:
    """What came before a reset and nobody has read yet: asyncio's reader keeps it, and only ever raises."""
    kept: bytearray = reader._buffer  # type: ignore[attr-defined]
    left = bytes(kept)
    kept.clear()
    return left


class WebSocketPeer:
    """A caller's or an agent's end of a socket whose handshake is done.

    `masks`: this end is the client. `heard`: every byte that came behind the handshake, as it came.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, masks: bool) -> None:
        self._reader = reader
        self._writer = writer
        self._masks = masks
        self.heard = b""
        self._rest = b""
        self._frames: list[Frame] = []
        self._ended = False

    # Saying

    def send(self, raw: bytes) -> None:
        """Any bytes, just as they are."""
        self._writer.write(raw)

    async def pour(self, raw: bytes) -> None:
        """Any bytes, and waits until the far end has made room for them."""
        self._writer.write(raw)
        await self._writer.drain()
        await asyncio.sleep(0)  # others have their turn, also while there is always room

    @property
    def unsent(self) -> int:
        """Bytes that not even the kernel has taken."""
        return self._writer.transport.get_write_buffer_size()

    async def pour_on(self, raw: bytes) -> None:
        """The same again and again, until nobody takes it any more."""
        with contextlib.suppress(OSError):
            while not self._writer.is_closing():
                await self.pour(raw)

    def frame(self, opcode: int, payload: bytes = b"", **odd: object) -> bytes:
        """A frame of this end: masked with a new key where this end is the client."""
        odd.setdefault("key", os.urandom(4) if self._masks else None)
        return frame(opcode, payload, **odd)  # type: ignore[arg-type]

    def say(self, text: str) -> bytes:
        """Sends a text message in one frame; gives the frame's bytes."""
        raw = self.frame(TEXT, text.encode())
        self.send(raw)
        return raw

    def close_frame(self, code: int, reason: str = "") -> bytes:
        return close_frame(code, reason, key=os.urandom(4) if self._masks else None)

    # Hearing

    async def next(self) -> Frame | None:
        """The next frame of any kind, None where the socket ended."""
        while not self._frames:
            if self._ended:
                return None
            data = await self._read()
            self._ended = not data
            self.heard += data
            self._frames, self._rest = split(self._rest + data)
        return self._frames.pop(0)

    async def hear(self) -> Frame:
        """The next frame; a close or the socket's end is none."""
        heard = await self.next()
        assert heard is not None, "the socket ended, and no frame came"
        assert heard.opcode != CLOSE, f"the socket was closed: {heard.close}"
        return heard

    async def hear_bytes(self, count: int) -> bytes:
        """The first `count` bytes of all that came behind the handshake, as they came."""
        while len(self.heard) < count and not self._ended:
            data = await self._read()
            self._ended = not data
            self.heard += data
            frames, self._rest = split(self._rest + data)
            self._frames += frames
        return self.heard[:count]

    async def _read(self) -> bytes:
        """What comes next; nothing where the socket has ended. Silence is no end: it fails."""
        try:
            async with asyncio.timeout(WAIT_S):
                return await self._reader.read(1 << 18)
        except TimeoutError:  # which is an OSError too
            detail = f"nothing came for {WAIT_S:g} s, after {len(self.heard)} bytes"
            raise AssertionError(detail) from None
        except OSError:
            return read_before_reset(self._reader)

    # Ending

    async def closed(self) -> tuple[int, str]:
        """How the far end closes: waits for its close frame, answers as one does, gives code and reason."""
        while (heard := await self.next()) is not None:
            if heard.opcode == CLOSE:
                with contextlib.suppress(OSError):
                    self.send(self.frame(CLOSE, heard.payload[:2]))
                return heard.close
        return ABNORMAL_CLOSE

    async def ended(self) -> bytes:
        """Waits for the end of the socket; gives every byte that was heard."""
        while await self.next() is not None:
            pass
        return self.heard

    async def hang_up(self, code: int = 1000, reason: str = "") -> tuple[int, str]:
        """Closes as one does, and gives what the far end answered."""
        self.send(self.close_frame(code, reason))
        answer = ABNORMAL_CLOSE
        while (heard := await self.next()) is not None:
            if heard.opcode == CLOSE:
                answer = heard.close
        return answer

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        raw = self._writer.get_extra_info("socket")
        if raw is not None and raw.fileno() != -1:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        abort_connection(self._writer)

    def half_close(self) -> None:
        """Ends the connection from this side, with a FIN and without a close frame."""
        with contextlib.suppress(OSError):  # the far end may have reset it just now
            self._writer.write_eof()

    async def leave(self) -> None:
        """Frees the socket; nothing is waited for but that."""
        abort_connection(self._writer)
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def answer_ping(self) -> None:
        """Answers the next frame, which must be a ping."""
        heard = await self.hear()
        self.send(self.frame(PONG, heard.payload))
