# SPDX-License-Identifier: BSD-2-Clause
"""WebSocket frames, written and read without the code under test (RFC 6455 §5.2)."""

from __future__ import annotations

from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
KEY = b"\x37\xfa\x21\x3d"
"""The masking key of RFC 6455 §5.7's examples."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One received frame. `raw`: all its bytes. `payload`: unmasked."""

    raw: bytes
    fin: bool
    opcode: int
    masked: bool
    payload: bytes

    @property
    def text(self) -> str:
        """The payload of a text frame."""
        return self.payload.decode()

    @property
    def close(self) -> tuple[int, str]:
        """The code and reason of a close frame; 1005 if it has none."""
        if not self.payload:
            return 1005, ""
        return int.from_bytes(self.payload[:2], "big"), self.payload[2:].decode()


def mask(data: bytes, key: bytes) -> bytes:
    """Apply a masking key (RFC 6455 §5.3)."""
    size = len(data)
    keys = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    key: bytes | None = None,
    fin: bool = True,
    reserved: int = 0,
    wide: int | None = None,
) -> bytes:
    """Return a frame, valid or not.

    `key`: masks with it; None leaves the frame unmasked. `reserved`: RSV1-3 as 0x40, 0x20, 0x10.
    `wide`: bytes of extended length (0, 2, 8); None for the fewest that hold it.
    """
    size = len(payload)
    if wide is None:
        wide = 0 if size < 126 else 2 if size < 1 << 16 else 8
    announced = size if wide == 0 else {2: 126, 8: 127}[wide]
    head = bytes(((0x80 if fin else 0) | reserved | opcode, (0x80 if key is not None else 0) | announced))
    head += size.to_bytes(wide, "big") if wide else b""
    return head + payload if key is None else head + key + mask(payload, key)


def close_frame(code: int, reason: str = "", *, key: bytes | None = None) -> bytes:
    """Return a close frame."""
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode(), key=key)


def split(data: bytes) -> tuple[list[Frame], bytes]:
    """Return the complete frames at the front of `data`, and the rest of it."""
    frames = []
    at = 0
    while len(data) - at >= 2:
        masked, size = bool(data[at + 1] & 0x80), data[at + 1] & 0x7F
        body = at + 2
        if size > 125:
            wide = 2 if size == 126 else 8
            size = int.from_bytes(data[body : body + wide], "big")
            body += wide
        key = data[body : body + 4] if masked else b"\0\0\0\0"
        body += 4 if masked else 0
        end = body + size
        if end > len(data) or body > len(data):
            break
        payload = mask(data[body:end], key)
        frames.append(Frame(data[at:end], bool(data[at] & 0x80), data[at] & 0x0F, masked, payload))
        at = end
    return frames, data[at:]
