# SPDX-License-Identifier: BSD-2-Clause
"""WebSocket frames as bytes: walking their headers, unmasking, building the few of our own (RFC 6455 §5).

The walker is the one piece of code that touches every byte stream of every call, so it does as little
as possible: it steps from header to header and looks at no payload. It passes on whole headers only,
and whole frames where they are short, so that
  - what it has let through always ends between two frames or inside the payload of a long one;
  - a frame that breaks the rules has not been let through, not even its first byte;
  - a frame that somebody wants to look at lies in one piece.
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
"""A `look_below` that makes the walker hold back and show every frame."""

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
    """A frame broke the protocol. `passing` is what came before it and may still be passed on."""

    def __init__(self, close_code: int, reason: str) -> None:
        super().__init__(reason)
        self.close_code = close_code
        self.reason = reason
        self.passing = _NO_BYTES


class FrameSpan(NamedTuple):
    """A frame to look at: offsets into what `feed` returned. `first` is its first byte: FIN and opcode."""

    first: int
    start: int
    body: int
    end: int

    @property
    def opcode(self) -> int:
        """RFC 6455 §11.8."""
        return self.first & 0x0F


class FrameScanner(Counters):
    """Follows one direction of a WebSocket connection from frame to frame.

    `masked`: whether the frames come from a client. `max_payload`: bytes a message may have.
    `look_below`: data frames with fewer payload bytes are reported in `seen`; control frames always are.
    `frames` counts data frames, `bytes` everything that was fed.
    """

    __slots__ = ("_fragmented", "_key_bytes", "_mask_bit", "_message_bytes", "_rest", "seen")

    def __init__(self, *, masked: bool, max_payload: int, inspect_below: int = 0) -> None:
        self.masked = masked
        self.max_payload = max_payload
        self.inspect_below = inspect_below
        self.frames = 0
        self.bytes = 0
        self.left = 0  # payload bytes still to come of a long frame whose header has passed
        self.simple = True  # nothing is held back, no message is open: the fast case may go on from here
        self.seen: list[FrameSpan] = []  # the caller takes them out after each feed
        self._mask_bit = MASKED if masked else 0
        self._key_bytes = 4 if masked else 0
        self._rest = _NO_BYTES  # held back: part of a header, or of a short frame
        self._fragmented = False  # between the first and the last frame of a message
        self._message_bytes = 0  # of the fragments so far

    @property
    def at_boundary(self) -> bool:
        """Whether a frame of our own may follow what has been passed on."""
        return self.left == 0

    @property
    def between_messages(self) -> bool:
        """Whether a data frame of our own may follow what has been passed on."""
        return self.left == 0 and not self._fragmented

    @property
    def inside_message(self) -> bool:
        """Whether the next data frame goes on with a message that began before."""
        return self._fragmented

    @property
    def held(self) -> int:
        """Bytes held back."""
        return len(self._rest)

    @property
    def rest(self) -> bytes:
        """What is held back."""
        return self._rest

    def stop(self) -> None:
        """Forgets what was to come: the caller passes nothing on after the frame it was last shown."""
        self.left = 0
        self._rest = _NO_BYTES
        self.simple = False

    def feed(self, chunk: bytes) -> bytes:
        """What may be passed on now: nearly always `chunk` itself.

        Raises FrameError at the first frame that breaks the protocol; nothing may be fed after that.
        """
        self.bytes += len(chunk)
        if self._rest:
            chunk = self._rest + chunk
            self._rest = _NO_BYTES
        size = len(chunk)
        start = self.left
        while start < size:
            body = start + 2 + self._key_bytes
            if body > size:
                self._judge_mask(chunk, start)
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
                self._judge(chunk, start, first, length)
            end = body + length
            if length < self.inspect_below or first & 0x08:
                if end > size:
                    break
                self.seen.append(FrameSpan(first, start, body, end))
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
        self._rest = chunk[start:]
        self.simple = False
        return chunk[:start]

    def _judge_mask(self, chunk: bytes, start: int) -> None:
        """Raises FrameError where half a head shows already that it is masked as it must not be."""
        if start + 1 < len(chunk) and chunk[start + 1] ^ self._mask_bit > 127:
            raise self._error(chunk, start, PROTOCOL_ERROR, _WRONG_MASK)

    def _judge(self, chunk: bytes, start: int, first: int, length: int) -> None:
        """Raises FrameError where RFC 6455 §5.2, §5.4, §5.5 or the size limit forbid a frame of this head."""
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
            what = "continues no message" if opcode == CONTINUATION else "begins inside another message"
            raise self._error(chunk, start, PROTOCOL_ERROR, f"frame {what}")
        if self._message_bytes + length > self.max_payload:
            raise self._error(
                chunk, start, MESSAGE_TOO_BIG, f"message is larger than {self.max_payload} bytes"
            )

    def _error(self, chunk: bytes, start: int, close_code: int, reason: str) -> FrameError:
        error = FrameError(close_code, reason)
        error.passing = chunk[:start]
        self.stop()
        return error


def payload(chunk: bytes, frame: FrameSpan) -> bytes:
    """The payload of a frame in `chunk`, unmasked."""
    data = chunk[frame.body : frame.end]
    if not chunk[frame.start + 1] & MASKED or not data:
        return data
    return apply_mask(data, chunk[frame.body - 4 : frame.body])


def build(opcode: int, data: bytes, *, masked: bool) -> bytes:
    """A whole frame of our own. `masked`: it goes to an agent, whose client we are (RFC 6455 §5.3)."""
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
    """A close frame. `reason` is cut to the 123 bytes that fit, at a whole character (RFC 6455 §5.5.1)."""
    text = reason.encode()[: _MAX_CONTROL_BYTES - 2].decode(errors="ignore").encode()
    return build(CLOSE, code.to_bytes(2, "big") + text, masked=masked)


def read_close(data: bytes) -> tuple[int, str]:
    """Code and reason of a close frame's payload; NO_STATUS where it is empty.

    Raises FrameError where the code may not stand on the wire or the reason is not UTF-8 (RFC 6455 §7.4).
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
