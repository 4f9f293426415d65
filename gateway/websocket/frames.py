# SPDX-License-Identifier: BSD-2-Clause
"""WebSocket frames without I/O: finding where they begin and end, unmasking and building them (RFC 6455 §5).

The scanner is the one piece of code that touches every byte stream of every call, so it does as little as
possible: it steps from header to header and reads no payload. It returns whole headers only, and whole frames
if they are to be inspected, so that
  - what it has returned always ends between two frames or inside the payload of a long one;
  - nothing of a frame that breaks the protocol is returned, not even its first byte;
  - a frame that is to be inspected lies in one piece.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

try:
    from websockets.speedups import apply_mask
except ImportError:  # the package was built without a compiler
    from websockets.utils import apply_mask

from gateway.fastpath.accelerator import Counters

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

FIN: Final = 0x80
MASKED: Final = 0x80
_PLAIN: Final = (FIN | TEXT, FIN | BINARY)
_MAX_CONTROL_BYTES: Final = 125
_NO_BYTES: Final = b""
_WRONG_MASK: Final = "frame is masked as the other side's are"

INSPECT_ALL: Final = 1 << 62
"""An `inspect_below` that makes the scanner report every frame, and hold it back until it is complete."""

NORMAL_CLOSURE: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
NO_STATUS: Final = 1005
ABNORMAL: Final = 1006
NOT_UTF8: Final = 1007
POLICY_VIOLATION: Final = 1008
MESSAGE_TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011


class FrameError(Exception):
    """A frame broke the protocol, or the size limit.

    `close_code`: what its sender is to receive (RFC 6455 §7.4.1). `passing`: the bytes before the frame,
    which may still be passed on.
    """

    def __init__(self, close_code: int, reason: str) -> None:
        super().__init__(reason)
        self.close_code = close_code
        self.reason = reason
        self.passing = _NO_BYTES


class FrameSpan(NamedTuple):
    """The position of one frame, as offsets into the bytes that `FrameScanner.feed` returned."""

    first_byte: int
    """The frame's first byte, which holds FIN, the reserved bits and the opcode (RFC 6455 §5.2)."""
    start: int
    body: int
    """The offset of the payload."""
    end: int

    @property
    def opcode(self) -> int:
        """The opcode (RFC 6455 §11.8)."""
        return self.first_byte & 0x0F


class FrameScanner(Counters):
    """Follows one direction of a WebSocket connection from frame to frame.

    It inherits a C struct for speed: the accelerator counts plain frames in the same fields.

    `masked`: whether the frames come from a client. `max_payload`: the bytes that a message may have.
    `inspect_below`: data frames with fewer payload bytes are reported in `spans`; control frames always are.
    `frames` counts data frames, `bytes` everything that was fed. `left`: payload bytes still to come of
    a long frame whose header was returned. `simple`: nothing is held back and no message is open, so that the
    fast case may continue from here.
    """

    __slots__ = ("_fragmented", "_key_bytes", "_mask_bit", "_message_bytes", "_pending", "spans")

    def __init__(self, *, masked: bool, max_payload: int, inspect_below: int = 0) -> None:
        self.masked = masked
        self.max_payload = max_payload
        self.inspect_below = inspect_below
        self.frames = 0
        self.bytes = 0
        self.left = 0
        self.simple = True
        self.spans: list[FrameSpan] = []  # the caller removes them after each feed
        self._mask_bit = MASKED if masked else 0
        self._key_bytes = 4 if masked else 0
        self._pending = _NO_BYTES  # held back: part of a header, or of a frame that is to be inspected
        self._fragmented = False  # between the first and the last frame of a message
        self._message_bytes = 0  # of the fragments so far

    @property
    def at_boundary(self) -> bool:
        """Whether another frame may be written after what has been returned."""
        return self.left == 0

    @property
    def between_messages(self) -> bool:
        """Whether another message may be written after what has been returned."""
        return self.left == 0 and not self._fragmented

    @property
    def inside_message(self) -> bool:
        """Whether the next data frame continues a message (RFC 6455 §5.4)."""
        return self._fragmented

    @property
    def pending_bytes(self) -> int:
        """The number of bytes that are held back."""
        return len(self._pending)

    @property
    def pending(self) -> bytes:
        """The bytes that are held back: the part of a frame that has come so far."""
        return self._pending

    def stop(self) -> None:
        """Forget the bytes that are held back or awaited; nothing may be fed after that."""
        self.left = 0
        self._pending = _NO_BYTES
        self.simple = False

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes that may be passed on after `chunk` has come: nearly always `chunk` itself.

        Raises FrameError at the first frame that breaks the protocol; nothing may be fed after that.
        """
        self.bytes += len(chunk)
        if self._pending:
            chunk = self._pending + chunk
            self._pending = _NO_BYTES
        size = len(chunk)
        start = self.left
        while start < size:
            body = start + 2 + self._key_bytes
            if body > size:
                self._check_mask(chunk, start)
                break
            first = chunk[start]
            length = chunk[start + 1] ^ self._mask_bit
            if length > 125:  # RFC 6455 §5.2: 126 and 127 announce 2 and 8 bytes of length
                wide = 2 if length == 126 else 8
                if length > 127:
                    raise self._error(chunk, start, PROTOCOL_ERROR, _WRONG_MASK)
                body += wide
                if body > size:
                    break
                length = int.from_bytes(chunk[start + 2 : start + 2 + wide], "big")
            plain = first in _PLAIN and not self._fragmented
            if not plain or length > self.max_payload:
                self._check(chunk, start, first, length)
            end = body + length
            if length < self.inspect_below or first & 0x08:
                if end > size:
                    break
                self.spans.append(FrameSpan(first, start, body, end))
            if plain:
                self.frames += 1
            elif not first & 0x08:
                self.frames += 1
                self._fragmented = not first & FIN
                self._message_bytes = self._message_bytes + length if self._fragmented else 0
            start = end
        else:
            self.left = start - size
            self.simple = not self._fragmented
            return chunk
        self.left = 0
        self._pending = chunk[start:]
        self.simple = False
        return chunk[:start]

    def _check_mask(self, chunk: bytes, start: int) -> None:
        """Raise FrameError if an incomplete header already shows that the frame is masked wrongly."""
        if start + 1 < len(chunk) and chunk[start + 1] ^ self._mask_bit > 127:
            raise self._error(chunk, start, PROTOCOL_ERROR, _WRONG_MASK)

    def _check(self, chunk: bytes, start: int, first: int, length: int) -> None:
        """Raise FrameError if RFC 6455 §5.2, §5.4, §5.5 or the size limit forbid a frame with this header."""
        opcode = first & 0x0F
        if first & 0x70:
            raise self._error(chunk, start, PROTOCOL_ERROR, "reserved bits are set")
        if opcode in (CLOSE, PING, PONG):
            if not first & FIN:
                raise self._error(chunk, start, PROTOCOL_ERROR, "control frame is fragmented")
            if length > _MAX_CONTROL_BYTES:
                raise self._error(chunk, start, PROTOCOL_ERROR, "control frame is too long")
            return
        if opcode not in (CONTINUATION, TEXT, BINARY):
            raise self._error(chunk, start, PROTOCOL_ERROR, f"opcode {opcode:#x} is reserved")
        if (opcode == CONTINUATION) != self._fragmented:
            fault = "continues no message" if opcode == CONTINUATION else "begins inside another message"
            raise self._error(chunk, start, PROTOCOL_ERROR, f"frame {fault}")
        if self._message_bytes + length > self.max_payload:
            raise self._error(
                chunk, start, MESSAGE_TOO_BIG, f"message is larger than {self.max_payload} bytes"
            )

    def _error(self, chunk: bytes, start: int, close_code: int, reason: str) -> FrameError:
        error = FrameError(close_code, reason)
        error.passing = chunk[:start]
        self.stop()
        return error


def payload(chunk: bytes, span: FrameSpan) -> bytes:
    """Return the unmasked payload of the frame at `span` in `chunk`."""
    data = chunk[span.body : span.end]
    if not chunk[span.start + 1] & MASKED or not data:
        return data
    return apply_mask(data, chunk[span.body - 4 : span.body])


def build(opcode: int, data: bytes, *, masked: bool) -> bytes:
    """Return a whole frame with FIN set. `masked`: its sender is the client (RFC 6455 §5.3)."""
    size = len(data)
    bit = MASKED if masked else 0
    if size < 126:
        head = bytes((FIN | opcode, bit | size))
    elif size < 1 << 16:
        head = bytes((FIN | opcode, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((FIN | opcode, bit | 127)) + size.to_bytes(8, "big")
    if not masked:
        return head + data
    key = os.urandom(4)
    return head + key + (apply_mask(data, key) if data else data)


def build_close(code: int, reason: str, *, masked: bool) -> bytes:
    """Return a close frame. `reason` is cut to 123 bytes, at a whole character (RFC 6455 §5.5.1)."""
    text = reason.encode()[: _MAX_CONTROL_BYTES - 2].decode(errors="ignore").encode()
    return build(CLOSE, code.to_bytes(2, "big") + text, masked=masked)


def read_close(data: bytes) -> tuple[int, str]:
    """Return code and reason from the payload of a close frame; NO_STATUS if it is empty.

    Raises FrameError if the code must not be sent or the reason is not UTF-8 (RFC 6455 §5.5.1, §7.4).
    """
    if not data:
        return NO_STATUS, ""
    if len(data) == 1:
        raise FrameError(PROTOCOL_ERROR, "close frame has half a code")
    code = int.from_bytes(data[:2], "big")
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise FrameError(PROTOCOL_ERROR, f"close code {code} may not be sent")
    try:
        return code, data[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(NOT_UTF8, "close reason is not UTF-8") from None
