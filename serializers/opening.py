# SPDX-License-Identifier: BSD-2-Clause
"""How a media stream opens: `connected`, then `start`, and nothing before them (docs/reference/carriers.md
§1, §8.1).
"""

from __future__ import annotations

from serializers.dialect import Dialect, DialectError
from serializers.events import Connected, Start, Unknown

SERVICE_HOST_PARAMETERS = ("_pipecatCloudServiceHost", "serviceHost")
"""Custom parameters that may name the agent a call is for, in the order in which they are asked."""


class Opening:
    """The rules for a stream's first messages. Pure; one object a socket, fed until it returns Start.

    Bots read two messages and then decide (docs/reference/carriers.md §8.1), so a stream has two to say who
    it is. A
    `start` without `connected` before it is tolerated; Plivo knows no other.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._connected = False
        self._opened = False

    def feed(self, message: str | bytes) -> Start | None:
        """Takes the next message: str from a text frame, bytes from a binary one.

        Returns Start once the stream is open, None while more must come. Raises DialectError, in words,
        where the message breaks the rules; the socket should then be refused.
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
        what = "an unknown event" if isinstance(event, Unknown) else f"`{type(event).__name__.lower()}`"
        raise DialectError(f"{what} came before `start`")
