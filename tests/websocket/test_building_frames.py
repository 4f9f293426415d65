# SPDX-License-Identifier: BSD-2-Clause
"""Frames of our own: built as RFC 6455 wants them, and close frames read as strictly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.media.disconnect import CONNECTION_LOST, Disconnect, reason_for_agent, reason_for_carrier
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


def test_masking_keys_are_new_each_time() -> None:
    """§5.3: nobody may foresee them."""
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


def test_a_close_without_a_code() -> None:
    assert frames.read_close(b"") == (frames.NO_STATUS, "")


@pytest.mark.parametrize("code", LEGAL)
def test_a_code_that_may_be_sent(code: int) -> None:
    assert frames.read_close(code.to_bytes(2, "big") + "grüß".encode()) == (code, "grüß")


@pytest.mark.parametrize("code", ILLEGAL)
def test_a_code_that_may_not(code: int) -> None:
    with pytest.raises(frames.FrameError) as broken:
        frames.read_close(code.to_bytes(2, "big"))
    assert broken.value.close_code == 1002


@pytest.mark.parametrize(
    ("data", "code"), [(b"\x03", 1002), (b"\x03\xe8\xff", 1007), (b"\x03\xe8\xed\xa0\x80", 1007)]
)
def test_a_close_frame_that_is_broken(data: bytes, code: int) -> None:
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


@pytest.mark.parametrize(
    ("gone", "of_carrier", "of_agent", "detail"),
    [
        (Disconnect(1000), "caller_hangup", "agent_ended", "closed with 1000"),
        (Disconnect(1001, "bye"), "caller_hangup", "agent_ended", "closed with 1001: bye"),
        (Disconnect(1005), "caller_hangup", "agent_ended", "closed without a code"),
        (Disconnect(1011, "oh"), "carrier_lost", "agent_failed", "closed with 1011: oh"),
        (Disconnect(4000), "carrier_lost", "agent_failed", "closed with 4000"),
        (
            Disconnect(1006, "bad", violation_code=1002),
            "carrier_protocol_error",
            "agent_protocol_error",
            "bad",
        ),
        (
            Disconnect(1006, "bad", violation_code=1007),
            "carrier_protocol_error",
            "agent_protocol_error",
            "bad",
        ),
        (Disconnect(1006, "big", violation_code=1009), "too_large", "agent_protocol_error", "big"),
    ],
)
def test_what_a_leaving_means(gone: Disconnect, of_carrier: str, of_agent: str, detail: str) -> None:
    assert (reason_for_carrier(gone).reason.code, reason_for_carrier(gone).detail) == (of_carrier, detail)
    assert (reason_for_agent(gone).reason.code, reason_for_agent(gone).detail) == (of_agent, detail)


def test_a_lost_connection_has_the_tables_words() -> None:
    assert reason_for_carrier(CONNECTION_LOST).detail == "the carrier's socket was lost without a close"
    assert reason_for_agent(CONNECTION_LOST).detail == "the agent's socket was lost without a close"
    assert not CONNECTION_LOST.has_code
    assert Disconnect(4000, "x").has_code
