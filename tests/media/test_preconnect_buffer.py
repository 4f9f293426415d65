# SPDX-License-Identifier: BSD-2-Clause
"""What a leg keeps of a caller's early words, in what order, and how much of it at most."""

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
        self.said: list[bytes] = []
        self.say(*OPENING, *with_opening)
        self.leg.buffer_messages(1 << 16)

    def say(self, *messages: bytes) -> None:
        raw = [frames.build(frames.TEXT, message, masked=True) for message in messages]
        self.said += raw
        self.leg.data_received(b"".join(raw))

    def keep(self, most: int | None) -> None:
        self.leg.limit_buffered_audio(most, lambda message: message.startswith(b"sound"))

    def taken(self, *numbers: int) -> None:
        """The agent is told these messages, as they came."""
        assert self.leg.take_buffered() == b"".join(self.said[number] for number in numbers)


def sounds(count: int) -> list[bytes]:
    return [b"sound %d" % number for number in range(count)]


async def test_everything_where_nobody_says_otherwise() -> None:
    carrier = Carrier(*sounds(2))
    carrier.keep(None)
    carrier.say(*sounds(3), b"digit")
    carrier.taken(*range(8))


@pytest.mark.parametrize("when", ["before", "between", "after"])
async def test_none_of_it_but_all_that_is_no_sound(when: str) -> None:
    carrier = Carrier(b"sound", b"digit 1", b"sound")
    if when == "before":
        carrier.keep(0)
    carrier.say(b"sound", b"digit 2")
    if when == "between":
        carrier.keep(0)
    carrier.say(b"sound", b"digit 3", b"sound")
    if when == "after":
        carrier.keep(0)
    carrier.taken(0, 1, 3, 6, 8)


async def test_the_latest() -> None:
    carrier = Carrier(*sounds(3))
    carrier.keep(2)
    carrier.say(b"digit")
    carrier.taken(0, 1, 3, 4, 5)


async def test_less_in_the_line_than_with_the_agent() -> None:
    carrier = Carrier(b"sound")
    carrier.keep(0)
    carrier.say(b"sound")
    carrier.keep(None)
    carrier.say(*sounds(3))
    carrier.taken(0, 1, 4, 5, 6)


async def test_what_is_dropped_makes_room_to_read_on() -> None:
    carrier = Carrier(max_buffered_bytes=200)
    carrier.say(*sounds(20))
    assert not carrier.transport.reading
    carrier.keep(1)
    assert carrier.transport.reading
    carrier.say(*sounds(200))
    assert carrier.transport.reading
    carrier.taken(0, 1, 221)


async def test_a_fragmented_message_is_kept_whole() -> None:
    carrier = Carrier()
    carrier.keep(0)
    first = bytearray(frames.build(frames.TEXT, b"sound of ", masked=True))
    first[0] &= 0x7F
    last = frames.build(frames.CONTINUATION, b"two halves", masked=True)
    carrier.leg.data_received(bytes(first) + last)
    assert carrier.leg.take_buffered() == b"".join([*carrier.said, bytes(first), last])
