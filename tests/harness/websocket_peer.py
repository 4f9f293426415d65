# SPDX-License-Identifier: BSD-2-Clause
"""One end of a WebSocket, byte by byte: it sends any bytes, and keeps every byte that it receives."""

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
"""The result of `closed` for a socket that ended without a close frame."""


def read_before_reset(reader: asyncio.StreamReader) -> bytes:
    """Return the bytes received before a reset: asyncio's reader keeps them and only raises."""
    kept: bytearray = reader._buffer  # type: ignore[attr-defined]
    left = bytes(kept)
    kept.clear()
    return left


class WebSocketPeer:
    """A carrier's or an agent's end of a socket after the handshake.

    `masks`: whether this end is the client. `heard`: every byte received behind the handshake.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, masks: bool) -> None:
        self._reader = reader
        self._writer = writer
        self._masks = masks
        self.heard = b""
        self._rest = b""
        self._frames: list[Frame] = []
        self._ended = False

    # Sending

    def send(self, raw: bytes) -> None:
        """Send any bytes, just as they are."""
        self._writer.write(raw)

    async def pour(self, raw: bytes) -> None:
        """Send any bytes, and wait until the far end has made room for them."""
        self._writer.write(raw)
        await self._writer.drain()
        await asyncio.sleep(0)  # other tasks get their turn, also while there is always room

    @property
    def unsent(self) -> int:
        """The bytes that the kernel has not accepted yet."""
        return self._writer.transport.get_write_buffer_size()

    async def pour_on(self, raw: bytes) -> None:
        """Send the bytes again and again until the connection closes."""
        with contextlib.suppress(OSError):
            while not self._writer.is_closing():
                await self.pour(raw)

    def frame(self, opcode: int, payload: bytes = b"", **odd: object) -> bytes:
        """Return a frame of this end, masked with a new key if this end is the client."""
        odd.setdefault("key", os.urandom(4) if self._masks else None)
        return frame(opcode, payload, **odd)  # type: ignore[arg-type]

    def say(self, text: str) -> bytes:
        """Send a text message in one frame; return the frame's bytes."""
        raw = self.frame(TEXT, text.encode())
        self.send(raw)
        return raw

    def close_frame(self, code: int, reason: str = "") -> bytes:
        """Return a close frame of this end."""
        return close_frame(code, reason, key=os.urandom(4) if self._masks else None)

    # Receiving

    async def next(self) -> Frame | None:
        """Wait for the next frame of any kind; None if the socket ended."""
        while not self._frames:
            if self._ended:
                return None
            data = await self._read()
            self._ended = not data
            self.heard += data
            self._frames, self._rest = split(self._rest + data)
        return self._frames.pop(0)

    async def hear(self) -> Frame:
        """Wait for the next frame. Raises AssertionError for a close frame and for the socket's end."""
        frame = await self.next()
        assert frame is not None, "the socket ended, and no frame came"
        assert frame.opcode != CLOSE, f"the socket was closed: {frame.close}"
        return frame

    async def hear_bytes(self, count: int) -> bytes:
        """Wait for the first `count` bytes behind the handshake; return them."""
        while len(self.heard) < count and not self._ended:
            data = await self._read()
            self._ended = not data
            self.heard += data
            frames, self._rest = split(self._rest + data)
            self._frames += frames
        return self.heard[:count]

    async def _read(self) -> bytes:
        """Read some bytes; none at the socket's end. Raises AssertionError after WAIT_S of silence."""
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
        """Wait for the far end's close frame, answer it, and return its code and reason."""
        while (frame := await self.next()) is not None:
            if frame.opcode == CLOSE:
                with contextlib.suppress(OSError):
                    self.send(self.frame(CLOSE, frame.payload[:2]))
                return frame.close
        return ABNORMAL_CLOSE

    async def ended(self) -> bytes:
        """Wait for the end of the socket; return every byte that was received."""
        while await self.next() is not None:
            pass
        return self.heard

    async def hang_up(self, code: int = 1000, reason: str = "") -> tuple[int, str]:
        """Close; return the code and reason of the far end's answer."""
        self.send(self.close_frame(code, reason))
        answer = ABNORMAL_CLOSE
        while (frame := await self.next()) is not None:
            if frame.opcode == CLOSE:
                answer = frame.close
        return answer

    def reset(self) -> None:
        """Reset the TCP connection."""
        raw = self._writer.get_extra_info("socket")
        if raw is not None and raw.fileno() != -1:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        abort_connection(self._writer)

    def half_close(self) -> None:
        """Close this direction of the TCP connection without a close frame, and without TLS's alert."""
        with contextlib.suppress(OSError):  # the far end may have reset it just now
            if self._writer.can_write_eof():
                self._writer.write_eof()
            else:
                self._writer.get_extra_info("socket").shutdown(socket.SHUT_WR)

    async def leave(self) -> None:
        """Close the socket at once."""
        abort_connection(self._writer)
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def answer_ping(self) -> None:
        """Answer the next frame, which must be a ping."""
        frame = await self.hear()
        self.send(self.frame(PONG, frame.payload))
