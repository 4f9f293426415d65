# SPDX-License-Identifier: BSD-2-Clause
"""Fuzzes each carrier's dialect: any message is an event, or raises DialectError.

The event can be written again or is refused with DialectError, and what was written is read as the same
event.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from fuzz.seeds import messages
from serializers.dialect import Dialect, DialectError
from serializers.events import Start, Unknown
from serializers.opening import Opening
from serializers.registry import DIALECTS
from serializers.transforms import UNCHANGED

Event = TypeVar("Event")
Target = Callable[[bytes], None]


def target(carrier: str) -> Target:
    """Return the fuzz target of one carrier."""
    dialect = DIALECTS[carrier]
    start = _start_of(dialect)

    def read(data: bytes) -> None:
        carrier_event = _read(dialect.read_carrier, data)
        agent_event = _read(dialect.read_agent, data)
        for event in (carrier_event, agent_event):
            if event is not None:
                assert isinstance(dialect.event_of(data), str), "an event without a name"
        if carrier_event is not None:
            of_stream = carrier_event if isinstance(carrier_event, Start) else start
            _check_written(
                carrier_event, lambda: dialect.write_carrier(carrier_event, of_stream), dialect.read_carrier
            )
        if agent_event is not None:
            _check_written(agent_event, lambda: dialect.write_agent(agent_event, start), dialect.read_agent)
        _check_opening(dialect, data)
        _check_transforms(dialect, data)

    return read


def _read(read: Callable[[str | bytes], Event], data: bytes) -> Event | None:
    """Return the event, which must be the same from bytes and from text; None if the message is none."""
    try:
        event = read(data)
    except DialectError:
        event = None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        assert event is None, "bytes that are not UTF-8 were read as a message"
        return None
    try:
        assert read(text) == event
    except DialectError:
        assert event is None
    return event


def _check_written(event: object, write: Callable[[], str], read: Callable[[str], object]) -> None:
    try:
        text = write()
    except DialectError:
        return
    assert not isinstance(event, Unknown), "an event that the dialect does not know was written"
    again = read(text)
    assert type(again) is type(event), (event, text)
    assert getattr(again, "payload", None) == getattr(event, "payload", None)


def _check_opening(dialect: Dialect, data: bytes) -> None:
    """Feed the data to an opening as the first messages of a stream: one, or two on separate lines."""
    opening = Opening(dialect)
    for line in data.split(b"\n", 1):
        try:
            if opening.feed(line.decode(errors="replace")) is not None:
                return
        except DialectError:
            return


def _check_transforms(dialect: Dialect, data: bytes) -> None:
    """Feed the data to new transforms, which pass, change or drop it and never raise."""
    for transform in dialect.transforms():
        if transform.feed(data) is UNCHANGED:
            assert isinstance(json.loads(data.decode())["event"], str), "a bot would crash on it"
        transform.flush()
        assert not transform.has_buffered


def _start_of(dialect: Dialect) -> Start:
    for message in messages(dialect.name):
        try:
            event = dialect.read_carrier(message)
        except DialectError:
            continue
        if isinstance(event, Start):
            return event
    raise AssertionError(f"no transcript of {dialect.name} has a start")
