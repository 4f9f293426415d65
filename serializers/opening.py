# SPDX-License-Identifier: BSD-2-Clause
"""The opening of a media stream: `connected`, then `start`, and no other message before
(docs/reference/carriers.md §1, §8.1).
"""

from __future__ import annotations

from serializers.dialect import Dialect, DialectError
from serializers.events import Connected, Start, Unknown

SERVICE_HOST_PARAMETERS = ("_pipecatCloudServiceHost", "serviceHost")
"""Custom parameters that may name the call's agent, in order of precedence."""


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
            self._opened = True
            return event
        if isinstance(event, Connected) and self._dialect.sends_connected and not self._connected:
            self._connected = True
            return None
        if isinstance(event, Connected) and self._connected:
            raise DialectError("`connected` came twice, and no `start`")
        name = "an unknown event" if isinstance(event, Unknown) else f"`{type(event).__name__.lower()}`"
        raise DialectError(f"{name} came before `start`")
