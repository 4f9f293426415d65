# SPDX-License-Identifier: BSD-2-Clause
"""Any message under each carrier's vocabulary: it means an event, or it is a DialectError.

What it means can be written again or is refused in the same way, and what was written means the same event.
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
    """The fuzz target of one carrier."""
    dialect = DIALECTS[carrier]
    start = _start_of(dialect)

    def read(data: bytes) -> None:
        said = _read(dialect.read_carrier, data)
        answered = _read(dialect.read_agent, data)
        for event in (said, answered):
            if event is not None:
                assert isinstance(dialect.event_of(data), str), "an event that nobody sees pass"
        if said is not None:
            about = said if isinstance(said, Start) else start
            _written(said, lambda: dialect.write_carrier(said, about), dialect.read_carrier)
        if answered is not None:
            _written(answered, lambda: dialect.write_agent(answered, start), dialect.read_agent)
        _open(dialect, data)
        _filter(carrier, data)

    return read


def _read(read: Callable[[str | bytes], Event], data: bytes) -> Event | None:
    """The event, whether the message came as bytes or as text; None where it is none."""
    try:
        event = read(data)
    except DialectError:
        event = None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        assert event is None, "no text, and yet a message"
        return None
    try:
        assert read(text) == event
    except DialectError:
        assert event is None
    return event


def _written(event: object, write: Callable[[], str], read: Callable[[str], object]) -> None:
    try:
        text = write()
    except DialectError:
        return
    assert not isinstance(event, Unknown), "a word for what the dialect does not know"
    again = read(text)
    assert type(again) is type(event), (event, text)
    assert getattr(again, "payload", None) == getattr(event, "payload", None)


def _open(dialect: Dialect, data: bytes) -> None:
    """As the first messages of a stream: one, or two in lines."""
    opening = Opening(dialect)
    for line in data.split(b"\n", 1):
        try:
            if opening.feed(line.decode(errors="replace")) is not None:
                return
        except DialectError:
            return


def _filter(carrier: str, data: bytes) -> None:
    """Under the coupling through messages: passed, changed or dropped, never raised."""
    for transform in DIALECTS[carrier].transforms():
        if transform.feed(data) is UNCHANGED:
            assert isinstance(json.loads(data.decode())["event"], str), "a bot would die of it"
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
