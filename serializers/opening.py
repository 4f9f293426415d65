# SPDX-License-Identifier: BSD-2-Clause
"""The opening of a media stream: `connected`, then `start` (docs/reference/carriers.md §1, §8.1), and what
senders that are early send before it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from serializers.call_numbers import MAX_NUMBER_CHARACTERS
from serializers.dialect import Dialect, DialectError
from serializers.events import Start

SERVICE_HOST_PARAMETERS = ("_pipecatCloudServiceHost", "serviceHost")
"""Custom parameters that may name the call's agent, in order of precedence."""

MAX_ID_CHARACTERS = 256
"""Characters of an id in `start`: of the call, its stream, its account. Telnyx's of a call has 60."""

_ID: Final = re.compile(r"[!-~]+")


class Opening:
    """Finds the opening among the first messages of one stream. Pure: feed it until it returns Start.

    A `start` without `connected` before it is accepted: Plivo sends no `connected`. Sound, digits, marks and
    whatever else is early are not read, only counted: bots read two messages before they choose a serializer
    (docs/reference/carriers.md §8.1), so `messages` must reach the agent first, and the early ones behind
    them, in their order. The caller bounds time and bytes.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._fed = 0
        self._connected: int | None = None
        self._start: int | None = None

    @property
    def messages(self) -> tuple[int, ...]:
        """The numbers, from 0, of the messages that are the opening, among all that were fed."""
        return tuple(number for number in (self._connected, self._start) if number is not None)

    @property
    def early(self) -> int:
        """How many other messages were fed."""
        return self._fed - len(self.messages)

    def feed(self, message: str | bytes) -> Start | None:
        """Process the next message: str from a text frame, bytes from a binary frame.

        Return Start when the stream is open, None if another message must follow. Raises DialectError for a
        message that is none, and for the end of the stream; the socket should then be closed.
        """
        if self._start is not None:
            raise DialectError("the stream is open already")
        if isinstance(message, bytes):
            raise DialectError("a binary message came before `start`")
        number, self._fed = self._fed, self._fed + 1
        event = self._dialect.event_of(message.encode("utf-8", "surrogatepass"))
        if not event or event == "start":
            start = self._dialect.read_carrier(message)
            if not isinstance(start, Start):
                raise DialectError("the message has no `event`")
            start = _bounded(start)
            self._start = number
            return start
        if event == "stop":
            raise DialectError("`stop` came before `start`")
        if event == "connected" and self._dialect.sends_connected and self._connected is None:
            self._connected = number
        return None


def _bounded(start: Start) -> Start:
    """Return `start` without numbers that are too long to be any: they are stored, and compared with numbers.

    Raises DialectError if an id is too long, or of other characters than carriers' ids: ids are stored,
    logged, and part of URLs.
    """
    ids = (("call", start.call_id), ("stream", start.stream_id), ("account", start.account_id))
    for kind, value in ids:
        if value is not None and len(value) > MAX_ID_CHARACTERS:
            raise DialectError(f"the {kind}'s id in `start` is longer than {MAX_ID_CHARACTERS} characters")
        if value is not None and not _ID.fullmatch(value):
            raise DialectError(f"the {kind}'s id in `start` is not plain ASCII without spaces")
    if max(len(start.from_number or ""), len(start.to_number or "")) <= MAX_NUMBER_CHARACTERS:
        return start
    from_number, to_number = (
        number if number is not None and len(number) <= MAX_NUMBER_CHARACTERS else None
        for number in (start.from_number, start.to_number)
    )
    return replace(start, from_number=from_number, to_number=to_number)
