# SPDX-License-Identifier: BSD-2-Clause
"""The frame scanner against every split of a byte stream: what it returns, counts and reports does not depend
on where the network cut the stream (RFC 6455 §5.2, §5.4)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.websocket.frames import INSPECT_ALL, FrameError, FrameScanner, payload
from tests.harness.frames import BINARY, CLOSE, CONTINUATION, KEY, PING, PONG, TEXT, frame, split

MAX_PAYLOAD = 1 << 20
INSPECT_LIMITS = [0, 40, INSPECT_ALL]


def frames_of_all_kinds(key: bytes | None) -> list[bytes]:
    return [
        frame(TEXT, b"", key=key),
        frame(TEXT, b"x", key=key),
        frame(BINARY, bytes(range(39)), key=key),
        frame(
            BINARY, bytes(range(40)), key=key
        ),  # the first that is long where frames below 40 are looked at
        frame(TEXT, b"y" * 125, key=key),
        frame(PING, b"", key=key),
        frame(TEXT, b"z" * 126, key=key),  # 2 bytes of length
        frame(BINARY, b"w" * 10, key=key, wide=2),
        frame(TEXT, b"v" * 10, key=key, wide=8),  # 8 bytes of length
        frame(PING, b"p" * 125, key=key),
        frame(PONG, b"q", key=key),
        frame(TEXT, b"a message in ", key=key, fin=False),
        frame(PING, b"between", key=key),
        frame(CONTINUATION, b"", key=key, fin=False),
        frame(CONTINUATION, b"c" * 50, key=key, fin=False),
        frame(PONG, b"", key=key),
        frame(CONTINUATION, b"fragments", key=key),
        frame(BINARY, b"b" * 200, key=key, fin=False),
        frame(CONTINUATION, b"", key=key),
        frame(TEXT, b"after", key=key),
        frame(CLOSE, b"\x03\xe8bye", key=key),
    ]


class Scan:
    """A scanner that is fed piece by piece, with all its results; checks what must hold after each piece."""

    def __init__(self, *, masked: bool, inspect_below: int, of: list[bytes]) -> None:
        self.scanner = FrameScanner(masked=masked, max_payload=MAX_PAYLOAD, inspect_below=inspect_below)
        self.passed = b""
        self.inspected: list[tuple[bytes, bytes]] = []
        self._fed = 0
        self._edges = {0}
        self._insides: list[range] = []
        for raw in of:
            start = max(self._edges)
            (parsed,), _ = split(raw)
            self._edges.add(start + len(raw))
            if parsed.opcode < CLOSE and len(parsed.payload) >= inspect_below:
                self._insides.append(range(start + len(raw) - len(parsed.payload), start + len(raw)))

    def feed(self, piece: bytes) -> None:
        passing = self.scanner.feed(piece)
        self._fed += len(piece)
        for one in self.scanner.spans:
            assert 0 <= one.start < one.body <= one.end <= len(passing), (
                "an inspected frame lies in one piece"
            )
            self.inspected.append((passing[one.start : one.end], payload(passing, one)))
        self.scanner.spans.clear()
        self.passed += passing
        at = len(self.passed)
        assert at + self.scanner.pending_bytes == self._fed, "every byte is passed on or held back"
        assert self.scanner.at_boundary == (at in self._edges)
        assert at in self._edges or any(at in inside for inside in self._insides), "a header was cut"


def expected_inspected(stream: bytes, inspect_below: int) -> list[tuple[bytes, bytes]]:
    frames, _ = split(stream)
    return [
        (one.raw, one.payload) for one in frames if one.opcode >= CLOSE or len(one.payload) < inspect_below
    ]


def assert_scanned(pieces: list[bytes], of: list[bytes], *, masked: bool, inspect_below: int) -> None:
    scan = Scan(masked=masked, inspect_below=inspect_below, of=of)
    for piece in pieces:
        scan.feed(piece)
    stream = b"".join(pieces)
    assert scan.passed == stream
    assert scan.scanner.pending_bytes == 0
    assert scan.scanner.bytes == len(stream)
    frames, rest = split(stream)
    assert rest == b""
    assert scan.scanner.frames == sum(one.opcode < CLOSE for one in frames)
    assert scan.inspected == expected_inspected(stream, inspect_below)


@pytest.mark.parametrize("inspect_below", INSPECT_LIMITS)
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "masked"])
def test_every_split_in_two(key: bytes | None, inspect_below: int) -> None:
    frames = frames_of_all_kinds(key)
    stream = b"".join(frames)
    for at in range(len(stream) + 1):
        pieces = [stream[:at], stream[at:]]
        assert_scanned(pieces, frames, masked=key is not None, inspect_below=inspect_below)


@pytest.mark.parametrize("inspect_below", INSPECT_LIMITS)
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "masked"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 13])
def test_pieces_of_equal_size(key: bytes | None, inspect_below: int, size: int) -> None:
    frames = frames_of_all_kinds(key)
    stream = b"".join(frames)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert_scanned(pieces, frames, masked=key is not None, inspect_below=inspect_below)


@pytest.mark.parametrize("inspect_below", INSPECT_LIMITS)
@pytest.mark.parametrize("key", [None, b"\0\0\0\0"], ids=["plain", "masked"])
def test_a_frame_that_needs_eight_bytes_of_length(key: bytes | None, inspect_below: int) -> None:
    long = frame(BINARY, b"x" * 66_000, key=key)
    frames = [frame(TEXT, b"before", key=key), long, frame(TEXT, b"after", key=key)]
    stream = b"".join(frames)
    head = len(frames[0])
    for at in [*range(head + 20), 40_000, *range(head + len(long) - 3, len(stream) + 1)]:
        pieces = [stream[:at], stream[at:]]
        assert_scanned(pieces, frames, masked=key is not None, inspect_below=inspect_below)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], list[int], int]:
    """Draw legal frames of one direction, where to cut them, and the size below which they are inspected."""
    masked = draw(st.booleans())
    key = st.binary(min_size=4, max_size=4) if masked else st.none()
    controls = st.builds(
        lambda opcode, data, key: frame(opcode, data, key=key),
        st.sampled_from([PING, PONG]),
        st.binary(max_size=10),
        key,
    )
    frames: list[bytes] = []
    for _ in range(draw(st.integers(1, 6))):
        parts = draw(st.lists(st.binary(max_size=140), min_size=1, max_size=4))
        for number, part in enumerate(parts):
            opcode = CONTINUATION if number else draw(st.sampled_from([TEXT, BINARY]))
            wide = draw(st.sampled_from([None, 2, 8]))
            frames.append(frame(opcode, part, key=draw(key), fin=number == len(parts) - 1, wide=wide))
            frames += draw(st.lists(controls, max_size=1))
    size = len(b"".join(frames))
    cuts = draw(st.lists(st.integers(0, size), max_size=12))
    return frames, sorted(cuts), draw(st.sampled_from([*INSPECT_LIMITS, 1, 126]))


@given(streams())
def test_any_stream_in_any_pieces(drawn: tuple[list[bytes], list[int], int]) -> None:
    frames, cuts, inspect_below = drawn
    stream = b"".join(frames)
    edges = [0, *cuts, len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert_scanned(pieces, frames, masked=bool(frames[0][1] & 0x80), inspect_below=inspect_below)


@given(st.lists(st.binary(max_size=40), max_size=8), st.booleans(), st.sampled_from(INSPECT_LIMITS))
def test_arbitrary_bytes_raise_nothing_but_frame_errors(
    pieces: list[bytes], masked: bool, inspect_below: int
) -> None:
    """What passes is a prefix of what came, and there is at most one violation."""
    scanner = FrameScanner(masked=masked, max_payload=1000, inspect_below=inspect_below)
    passed = b""
    violation = None
    for piece in pieces:
        try:
            passed += scanner.feed(piece)
        except FrameError as error:
            violation = error
            passed += error.passing
            break
    assert violation is None or (violation.close_code in (1002, 1009) and violation.reason)
    assert b"".join(pieces).startswith(passed)
