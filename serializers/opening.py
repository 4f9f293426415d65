# SPDX-License-Identifier: BSD-2-Clause
"""The opening of a media stream: `connected`, then `start`, and no other message before
(docs/reference/carriers.md §1, §8.1).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from serializers.dialect import Dialect, DialectError
from serializers.events import Connected, Start, Unknown

SERVICE_HOST_PARAMETERS = ("_pipecatCloudServiceHost", "serviceHost")
"""Custom parameters that may name the call's agent, in order of precedence."""

MAX_ID_CHARACTERS = 256
"""Characters of an id in `start`: of the call, its stream, its account. Telnyx's of a call has 60."""

MAX_NUMBER_CHARACTERS = 256
"""Characters of a number in `start`, which may be a SIP address."""

_ID: Final = re.compile(r"[!-~]+")


class Opening:
    """Checks the first messages of one stream. Pure: feed it until it returns Start.

    Bots read two messages before they choose a serializer (docs/reference/carriers.md §8.1), so a stream must
    have opened after two. A `start` without `connected` before it is accepted: Plivo sends no `connected`.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._connected = False
        self._opened = False

    def feed(self, message: str | bytes) -> Start | None:
        """Process the next message: str from a text frame, bytes from a binary frame.

        Return Start when the stream is open, None if another message must follow. Raises DialectError for any
        other message; the socket should then be closed.
        """
        if self._opened:
            raise DialectError("the stream is open already")
        if isinstance(message, bytes):
            raise DialectError("a binary message came before `start`")
        event = self._dialect.read_carrier(message)
        if isinstance(event, Start):
            start = _bounded(event)
            self._opened = True
            return start
        if isinstance(event, Connected) and self._dialect.sends_connected and not self._connected:
            self._connected = True
            return None
        if isinstance(event, Connected) and self._connected:
            raise DialectError("`connected` came twice, and no `start`")
        name = "an unknown event" if isinstance(event, Unknown) else f"`{type(event).__name__.lower()}`"
        raise DialectError(f"{name} came before `start`")


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
