# SPDX-License-Identifier: BSD-2-Clause
"""Frames are built as RFC 6455 requires, and close frames are read as strictly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.websocket import frames
from tests.harness.frames import BINARY, CLOSE, PONG, TEXT, split

LEGAL = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999]
ILLEGAL = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 65535]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("opcode", "size"),
    [*((opcode, size) for opcode in (TEXT, BINARY) for size in (0, 1, 125, 126, 65535, 65536)), (PONG, 125)],
)
def test_a_frame_reads_as_it_was_built(opcode: int, size: int, masked: bool) -> None:
    data = bytes(number % 251 for number in range(size))
    raw = frames.build(opcode, data, masked=masked)
    (built,), rest = split(raw)
    assert (built.opcode, built.payload, built.masked, built.fin, rest) == (opcode, data, masked, True, b"")
    head = 2 + (0 if size < 126 else 2 if size < 65536 else 8) + (4 if masked else 0)
    assert len(raw) == head + size, "the shortest form of the length (§5.2)"
    scanner = frames.FrameScanner(masked=masked, max_payload=1 << 20, inspect_below=frames.INSPECT_ALL)
    assert scanner.feed(raw) == raw
    assert frames.payload(raw, scanner.spans[0]) == data


def test_every_frame_has_a_new_masking_key() -> None:
    """They must not be predictable (RFC 6455 §5.3)."""
    keys = {frames.build(TEXT, b"x", masked=True)[2:6] for _ in range(50)}
    assert len(keys) > 45


@given(st.sampled_from(LEGAL), st.text(max_size=200), st.booleans())
def test_a_close_frame_reads_as_it_was_built(code: int, reason: str, masked: bool) -> None:
    (built,), rest = split(frames.build_close(code, reason, masked=masked))
    assert (built.opcode, built.masked, rest) == (CLOSE, masked, b"")
    assert len(built.payload) <= 125
    assert built.close == frames.read_close(built.payload)
    read_code, read_reason = built.close
    assert read_code == code
    assert reason.startswith(read_reason), "cut at a whole character"
    assert len(reason.encode()) > 120 or read_reason == reason


def test_a_close_frame_without_a_code_is_read() -> None:
    assert frames.read_close(b"") == (frames.NO_STATUS, "")


@pytest.mark.parametrize("code", LEGAL)
def test_a_legal_close_code_is_read(code: int) -> None:
    assert frames.read_close(code.to_bytes(2, "big") + "grüß".encode()) == (code, "grüß")


@pytest.mark.parametrize("code", ILLEGAL)
def test_an_illegal_close_code_is_a_violation(code: int) -> None:
    with pytest.raises(frames.FrameError) as broken:
        frames.read_close(code.to_bytes(2, "big"))
    assert broken.value.close_code == 1002


@pytest.mark.parametrize(
    ("data", "code"), [(b"\x03", 1002), (b"\x03\xe8\xff", 1007), (b"\x03\xe8\xed\xa0\x80", 1007)]
)
def test_a_broken_close_payload_is_a_violation(data: bytes, code: int) -> None:
    with pytest.raises(frames.FrameError) as broken:
        frames.read_close(data)
    assert broken.value.close_code == code


@given(st.binary(max_size=125))
def test_any_close_payload_is_read_or_refused(data: bytes) -> None:
    try:
        code, reason = frames.read_close(data)
    except frames.FrameError as error:
        refused_with = error.close_code
    else:
        refused_with = None
        assert code == 1005 or code.to_bytes(2, "big") + reason.encode() == data
    assert refused_with in (None, 1002, 1007)
