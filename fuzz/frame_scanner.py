# SPDX-License-Identifier: BSD-2-Clause
"""Any byte stream, cut anywhere: the frame scanner against a reference, and the C pump against Python.

The input's first four bytes choose the settings and where the stream is cut; the rest is the stream.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.fastpath import accelerator
from gateway.websocket.frames import (
    INSPECT_ALL,
    MESSAGE_TOO_BIG,
    PROTOCOL_ERROR,
    FrameError,
    FrameScanner,
    payload,
)
from tests.harness.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, split

HEAD_BYTES = 4
INSPECT_LIMITS = (0, 40, 320, INSPECT_ALL)
MAX_PAYLOADS = (1, 125, 1000, 1 << 20)
CONTROLS = (CLOSE, PING, PONG)
MAX_CONTROL_BYTES = 125


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of a scanner, and the seed of the cuts."""

    masked: bool
    inspect_below: int
    max_payload: int
    cuts: int

    @classmethod
    def of(cls, head: bytes) -> Settings:
        return cls(
            bool(head[0] & 1),
            INSPECT_LIMITS[head[0] >> 1 & 3],
            MAX_PAYLOADS[head[0] >> 3 & 3],
            int.from_bytes(head),
        )

    def scanner(self) -> FrameScanner:
        return FrameScanner(
            masked=self.masked, max_payload=self.max_payload, inspect_below=self.inspect_below
        )

    def pieces(self, stream: bytes) -> Iterator[bytes]:
        """Yield the stream in pieces of random sizes."""
        chance = random.Random(self.cuts)  # noqa: S311 - cuts, not secrets
        longest = chance.choice((1, 7, 200, len(stream) or 1))
        position = 0
        while position < len(stream):
            size = chance.randint(1, longest)
            yield stream[position : position + size]
            position += size


@dataclass(slots=True)
class Expected:
    """The results of the reference for a stream."""

    frames: int = 0
    passed: int = 0
    held: int = 0
    at_boundary: bool = True
    inspected: list[tuple[int, bytes]] = field(default_factory=list)
    fault: int | None = None
    _fragments: int | None = None

    @classmethod
    def of(cls, stream: bytes, settings: Settings) -> Expected:
        """Split `stream` by the reference, and check it by RFC 6455 §5.2, §5.4 and §5.5."""
        expected = cls()
        whole, rest = split(stream)
        for frame in whole:
            first, size = frame.raw[0], len(frame.payload)
            expected.fault = expected._check(first, frame.masked, size, settings)
            if expected.fault is not None:
                return expected
            expected._add(frame, settings)
        expected._add_rest(rest, settings)
        return expected

    def _check(self, first: int, masked: bool, size: int, settings: Settings) -> int | None:
        opcode, fin, inside = first & 0x0F, bool(first & 0x80), self._fragments is not None
        if masked != settings.masked or first & 0x70:
            return PROTOCOL_ERROR
        if opcode in CONTROLS:
            return None if fin and size <= MAX_CONTROL_BYTES else PROTOCOL_ERROR
        if opcode not in (CONTINUATION, TEXT, BINARY) or (opcode == CONTINUATION) != inside:
            return PROTOCOL_ERROR
        return MESSAGE_TOO_BIG if (self._fragments or 0) + size > settings.max_payload else None

    def _add(self, frame: Frame, settings: Settings) -> None:
        size = len(frame.payload)
        self.passed += len(frame.raw)
        if frame.opcode in CONTROLS or size < settings.inspect_below:
            self.inspected.append((frame.raw[0], frame.payload))
        if frame.opcode not in CONTROLS:
            self._count(frame.raw[0], size)

    def _count(self, first: int, size: int) -> None:
        self.frames += 1
        self._fragments = None if first & 0x80 else (self._fragments or 0) + size

    def _add_rest(self, rest: bytes, settings: Settings) -> None:
        """Add an incomplete frame: checked once its header is complete, passed on if it is not inspected."""
        self.held = len(rest)
        if len(rest) < 2:
            return
        masked, size = bool(rest[1] & 0x80), rest[1] & 0x7F
        if masked != settings.masked:
            self.fault = PROTOCOL_ERROR
            return
        wide = {126: 2, 127: 8}.get(size, 0)
        head = 2 + wide + (4 if masked else 0)
        if len(rest) < head:
            return
        size = int.from_bytes(rest[2 : 2 + wide], "big") if wide else size
        self.fault = self._check(rest[0], masked, size, settings)
        if self.fault is None and rest[0] & 0x0F not in CONTROLS and size >= settings.inspect_below:
            self._count(rest[0], size)
            self.passed += len(rest)
            self.held, self.at_boundary = 0, False


def scan(data: bytes) -> None:
    """Check that the scanner agrees with the reference about any stream, however it is cut."""
    if len(data) < HEAD_BYTES:
        return
    settings, stream = Settings.of(data[:HEAD_BYTES]), data[HEAD_BYTES:]
    scanner = settings.scanner()
    passed, fed, fault = b"", b"", None
    seen: list[tuple[int, bytes]] = []
    for piece in settings.pieces(stream):
        fed += piece
        try:
            passing = scanner.feed(piece)
        except FrameError as error:
            passing, fault = error.passing, error.close_code
        seen += [(frame.first_byte, payload(passing, frame)) for frame in scanner.spans]
        scanner.spans.clear()
        passed += passing
        if fault is not None:
            break
    expected = Expected.of(fed, settings)
    assert fault == expected.fault, (fault, expected)
    assert passed == fed[: expected.passed], (len(passed), expected)
    assert seen == expected.inspected, (seen, expected)
    if fault is None:
        assert (scanner.frames, scanner.bytes) == (expected.frames, len(fed)), (scanner.frames, expected)
        assert (scanner.pending_bytes, scanner.at_boundary) == (expected.held, expected.at_boundary), expected


class _Pumped:
    """A stream that the accelerator passes from socket to socket, and the frames that needed Python."""

    def __init__(self, settings: Settings) -> None:
        self.scanner = settings.scanner()
        self.fault: int | None = None
        self.inspected: list[tuple[int, bytes]] = []
        self._far, near = socket.socketpair()
        out, self._heard = socket.socketpair()
        self._sockets = (self._far, near, out, self._heard)
        self._heard.setblocking(False)
        self._out = out
        self._sources = accelerator.EpollSet()
        self._pump = accelerator.Pump(
            self._sources,
            self.scanner,
            near,
            out,
            on_chunk=self._in_python,
            on_unsent=self._unsent,
        )
        self._pump.resume()

    def _in_python(self, chunk: bytes) -> None:
        try:
            passing = self.scanner.feed(chunk)
        except FrameError as error:
            passing, self.fault = error.passing, error.close_code
        self.inspected += [(frame.first_byte, payload(passing, frame)) for frame in self.scanner.spans]
        self.scanner.spans.clear()
        self._unsent(passing)

    def _unsent(self, rest: bytes) -> None:
        if rest:
            self._out.sendall(rest)

    def feed(self, piece: bytes) -> bytes:
        self._far.sendall(piece)
        self._sources.ready()
        try:
            return self._heard.recv(1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self._pump.pause()
        for one in self._sockets:
            one.close()


def accelerate(data: bytes) -> None:
    """Check that C and Python agree about a stream after every piece."""
    if len(data) < HEAD_BYTES:
        return
    settings, stream = Settings.of(data[:HEAD_BYTES]), data[HEAD_BYTES:]
    scanner, pumped = settings.scanner(), _Pumped(settings)
    seen: list[tuple[int, bytes]] = []
    try:
        for piece in settings.pieces(stream):
            fault = None
            try:
                passing = scanner.feed(piece)
            except FrameError as error:
                passing, fault = error.passing, error.close_code
            seen += [(frame.first_byte, payload(passing, frame)) for frame in scanner.spans]
            scanner.spans.clear()
            assert pumped.feed(piece) == passing
            assert (pumped.fault, pumped.inspected) == (fault, seen)
            if fault is not None:
                return
            for name in ("left", "frames", "bytes", "simple", "pending_bytes"):
                assert getattr(scanner, name) == getattr(pumped.scanner, name), name
    finally:
        pumped.close()
