# SPDX-License-Identifier: BSD-2-Clause
"""Every violation of RFC 6455 that a frame's header shows: its close code, and that nothing of it passes."""

from __future__ import annotations

import pytest

from gateway.websocket.frames import INSPECT_ALL, FrameError, FrameScanner, payload
from tests.harness.frames import BINARY, CLOSE, CONTINUATION, KEY, PING, PONG, TEXT, frame

MAX_PAYLOAD = 1000
INSPECT_LIMITS = [0, 320, INSPECT_ALL]
PROTOCOL_ERROR, TOO_BIG = 1002, 1009


def violations(key: bytes | None, wrong: bytes | None) -> dict[str, tuple[bytes, bytes, int]]:
    """Return, by name: legal frames, a frame that is illegal after them, its close code (RFC 6455 §7.4.1)."""
    begun = frame(TEXT, b"begun", key=key, fin=False)
    bad = {
        # §5.1: a client masks, a server does not
        "wrong masking": (b"", frame(TEXT, b"sound", key=wrong), PROTOCOL_ERROR),
        "wrong masking of a long frame": (b"", frame(TEXT, b"s" * 200, key=wrong), PROTOCOL_ERROR),
        "wrong masking of a very long frame": (
            b"",
            frame(TEXT, b"s" * 10, key=wrong, wide=8),
            PROTOCOL_ERROR,
        ),
        "wrong masking of a ping": (b"", frame(PING, b"ping", key=wrong), PROTOCOL_ERROR),
        # §5.2: no extension was negotiated
        "all reserved bits": (b"", frame(BINARY, b"{}", key=key, reserved=0x70), PROTOCOL_ERROR),
        "a reserved bit in a ping": (b"", frame(PING, b"", key=key, reserved=0x40), PROTOCOL_ERROR),
        "a reserved bit in a continuation": (
            begun,
            frame(CONTINUATION, b"", key=key, reserved=0x10),
            PROTOCOL_ERROR,
        ),
        # §5.4
        "a continuation of nothing": (b"", frame(CONTINUATION, b"", key=key), PROTOCOL_ERROR),
        "a continuation behind the last": (
            begun + frame(CONTINUATION, b"", key=key),
            frame(CONTINUATION, b"", key=key),
            PROTOCOL_ERROR,
        ),
        "text inside a message": (begun, frame(TEXT, b"another", key=key), PROTOCOL_ERROR),
        "binary inside a message": (begun, frame(BINARY, b"", key=key, fin=False), PROTOCOL_ERROR),
        # §5.5
        "a fragmented close": (b"", frame(CLOSE, b"", key=key, fin=False), PROTOCOL_ERROR),
        "a fragmented ping": (b"", frame(PING, b"", key=key, fin=False), PROTOCOL_ERROR),
        "a fragmented pong": (b"", frame(PONG, b"", key=key, fin=False), PROTOCOL_ERROR),
        "a long close": (b"", frame(CLOSE, b"\x03\xe8" + b"x" * 124, key=key), PROTOCOL_ERROR),
        "a long ping": (b"", frame(PING, b"x" * 126, key=key), PROTOCOL_ERROR),
        "a very long pong": (b"", frame(PONG, b"x" * 70_000, key=key), PROTOCOL_ERROR),
        # The limit of ours
        "too large": (b"", frame(TEXT, b"x" * (MAX_PAYLOAD + 1), key=key), TOO_BIG),
        "far too large": (b"", bytes((0x80 | BINARY,)) + _endless(key), TOO_BIG),
        "too large in two fragments": (
            frame(TEXT, b"x" * 600, key=key, fin=False),
            frame(CONTINUATION, b"x" * 401, key=key),
            TOO_BIG,
        ),
        "too large in many fragments": (
            frame(TEXT, b"x" * 600, key=key, fin=False) + frame(CONTINUATION, b"x" * 400, key=key, fin=False),
            frame(CONTINUATION, b"x", key=key, fin=False),
            TOO_BIG,
        ),
    }
    for bit in (0x40, 0x20, 0x10):
        bad[f"reserved bit {bit:#x}"] = (b"", frame(TEXT, b"{}", key=key, reserved=bit), PROTOCOL_ERROR)
    for opcode in (*range(0x3, 0x8), *range(0xB, 0x10)):
        bad[f"opcode {opcode:#x}"] = (b"", frame(opcode, b"{}", key=key), PROTOCOL_ERROR)
    return bad


def _endless(key: bytes | None) -> bytes:
    """Return the rest of a header with the largest length that there is."""
    return bytes(((0 if key is None else 0x80) | 127,)) + b"\xff" * 8 + (key or b"")


CASES = [
    pytest.param(direction, *case, id=f"{name} from {'a client' if direction else 'a server'}")
    for direction, (key, wrong) in {True: (KEY, None), False: (None, KEY)}.items()
    for name, case in violations(key, wrong).items()
]


@pytest.mark.parametrize(("masked", "before", "bad", "code"), CASES)
@pytest.mark.parametrize("inspect_below", INSPECT_LIMITS)
def test_nothing_of_a_bad_frame_passes(
    masked: bool, before: bytes, bad: bytes, code: int, inspect_below: int
) -> None:
    good = frame(TEXT, b"good", key=KEY if masked else None)
    stream = good + before + bad
    # Behind the head nothing decides any more; what is cut there is like the rest.
    for at in range(min(len(stream), len(good + before) + 20)):
        scanner = FrameScanner(masked=masked, max_payload=MAX_PAYLOAD, inspect_below=inspect_below)
        passed, violation = scan(scanner, [stream[:at], stream[at:], good])
        assert violation.close_code == code
        assert violation.reason
        assert passed == good + before
        assert scanner.at_boundary, "a close frame of ours may stand here"


def scan(scanner: FrameScanner, pieces: list[bytes]) -> tuple[bytes, FrameError]:
    """Return what passes before the violation, and the violation."""
    passed = b""
    for piece in pieces:
        try:
            passed += scanner.feed(piece)
        except FrameError as violation:
            return passed + violation.passing, violation
    raise AssertionError("nothing was found")


@pytest.mark.parametrize("masked", [True, False])
def test_the_largest_message_passes(masked: bool) -> None:
    key = KEY if masked else None
    scanner = FrameScanner(masked=masked, max_payload=MAX_PAYLOAD)
    whole = frame(TEXT, b"x" * MAX_PAYLOAD, key=key)
    assert scanner.feed(whole) == whole
    parts = frame(TEXT, b"x" * 600, key=key, fin=False) + frame(CONTINUATION, b"x" * 400, key=key)
    for _ in range(3):  # a message's size is its own
        assert scanner.feed(parts) == parts
    assert scanner.frames == 7


def test_frames_before_a_bad_one_are_reported() -> None:
    scanner = FrameScanner(masked=True, max_payload=MAX_PAYLOAD)
    ping = frame(PING, b"still there", key=KEY)
    with pytest.raises(FrameError) as broken:
        scanner.feed(ping + frame(0x3, b"", key=KEY))
    assert broken.value.passing == ping
    assert [payload(broken.value.passing, one) for one in scanner.spans] == [b"still there"]


def test_after_a_stop_nothing_is_held_back() -> None:
    scanner = FrameScanner(masked=True, max_payload=MAX_PAYLOAD)
    scanner.feed(frame(TEXT, b"x" * 500, key=KEY)[:100])
    assert not scanner.at_boundary
    scanner.stop()
    assert scanner.at_boundary
    assert scanner.pending_bytes == 0


def test_a_short_unmasked_frame_of_a_client_is_a_violation_at_once() -> None:
    """A close frame of four bytes is shorter than a masked header, and nothing more may come."""
    scanner = FrameScanner(masked=True, max_payload=1000)
    with pytest.raises(FrameError) as broken:
        scanner.feed(bytes((0x88, 0x02, 0x03, 0xE8)))
    assert broken.value.close_code == PROTOCOL_ERROR
