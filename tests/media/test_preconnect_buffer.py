# SPDX-License-Identifier: BSD-2-Clause
"""The frames that a leg buffers for an agent that is not connected yet: which, how many, in what order."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.media.leg import Leg
from gateway.websocket import frames

OPENING = [b'{"event":"connected"}', b'{"event":"start"}']


class Transport:
    """A transport without a socket."""

    def __init__(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int) -> None: ...
    def set_protocol(self, protocol: Any) -> None: ...

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Carrier:
    """A leg, and its far end."""

    def __init__(self, *with_opening: bytes, max_buffered_bytes: int = 1 << 16) -> None:
        self.transport = Transport()
        self.leg = Leg(
            self.transport,  # type: ignore[arg-type]
            client=False,
            max_opening_bytes=1 << 16,
            max_buffered_bytes=max_buffered_bytes,
            on_disconnect=lambda _: None,
        )
        self.sent: list[bytes] = []
        self.send(*OPENING, *with_opening)
        self.leg.buffer_messages(1 << 16)

    def send(self, *messages: bytes) -> None:
        raw = [frames.build(frames.TEXT, message, masked=True) for message in messages]
        self.sent += raw
        self.leg.data_received(b"".join(raw))

    def limit(self, max_messages: int | None) -> None:
        self.leg.limit_buffered_audio(max_messages, lambda message: message.startswith(b"sound"))

    def assert_buffered(self, *numbers: int) -> None:
        """Take what is buffered: exactly the sent messages with these numbers, as they came."""
        assert self.leg.take_buffered() == b"".join(self.sent[number] for number in numbers)


def audio(count: int) -> list[bytes]:
    return [b"sound %d" % number for number in range(count)]


async def test_without_a_limit_everything_is_buffered() -> None:
    carrier = Carrier(*audio(2))
    carrier.limit(None)
    carrier.send(*audio(3), b"digit")
    carrier.assert_buffered(*range(8))


@pytest.mark.parametrize("when", ["before", "between", "after"])
async def test_a_limit_of_zero_drops_the_audio_and_nothing_else(when: str) -> None:
    carrier = Carrier(b"sound", b"digit 1", b"sound")
    if when == "before":
        carrier.limit(0)
    carrier.send(b"sound", b"digit 2")
    if when == "between":
        carrier.limit(0)
    carrier.send(b"sound", b"digit 3", b"sound")
    if when == "after":
        carrier.limit(0)
    carrier.assert_buffered(0, 1, 3, 6, 8)


async def test_the_newest_audio_is_kept() -> None:
    carrier = Carrier(*audio(3))
    carrier.limit(2)
    carrier.send(b"digit")
    carrier.assert_buffered(0, 1, 3, 4, 5)


async def test_the_limit_may_be_lifted() -> None:
    carrier = Carrier(b"sound")
    carrier.limit(0)
    carrier.send(b"sound")
    carrier.limit(None)
    carrier.send(*audio(3))
    carrier.assert_buffered(0, 1, 4, 5, 6)


async def test_dropped_audio_makes_room_to_read_on() -> None:
    carrier = Carrier(max_buffered_bytes=200)
    carrier.send(*audio(20))
    assert not carrier.transport.reading
    carrier.limit(1)
    assert carrier.transport.reading
    carrier.send(*audio(200))
    assert carrier.transport.reading
    carrier.assert_buffered(0, 1, 221)


async def test_a_fragmented_message_is_never_dropped() -> None:
    carrier = Carrier()
    carrier.limit(0)
    first = bytearray(frames.build(frames.TEXT, b"sound of ", masked=True))
    first[0] &= 0x7F
    last = frames.build(frames.CONTINUATION, b"two halves", masked=True)
    carrier.leg.data_received(bytes(first) + last)
    assert carrier.leg.take_buffered() == b"".join([*carrier.sent, bytes(first), last])
