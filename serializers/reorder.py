# SPDX-License-Identifier: BSD-2-Clause
"""Puts media messages in order for a carrier that does not promise it: Telnyx (docs/reference/carriers.md
§3.2).

A message that arrives before its predecessor is buffered until that arrives, but never with more than WINDOW
others, and not over a pause of the carrier. A message that arrives after its successors were passed on is
discarded: audio that is played late is worse than a gap. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

WINDOW: Final = 5
"""Messages that may be buffered: 100 ms of audio."""

RESTART: Final = 500
"""A chunk number that is lower by so much is not late: the carrier has begun to count again. 10 s of audio.
"""


class _Numbered(msgspec.Struct, frozen=True):
    chunk: str | int | None = None


class _Message(msgspec.Struct, frozen=True):
    event: str
    media: _Numbered | None = None


_decode = msgspec.json.Decoder(_Message).decode


class ReorderBuffer:
    """One direction of one call.

    Messages without audio pass at once, except `stop`, which follows all audio.
    """

    def __init__(self) -> None:
        self._next: int | None = None
        self._buffered: dict[int, bytes] = {}

    @property
    def has_buffered(self) -> bool:
        """Whether messages are buffered."""
        return bool(self._buffered)

    def feed(self, message: bytes) -> Sequence[bytes]:
        """Return the messages to pass on now, in order."""
        try:
            parsed = _decode(message)
            number = None if parsed.media is None or parsed.media.chunk is None else int(parsed.media.chunk)
        except (ValueError, RecursionError):  # invalid JSON or no number: not for this buffer to refuse
            return (message,)
        if parsed.event == "stop":
            return [*self.flush(), message]
        if parsed.event != "media" or number is None:
            return (message,)
        if self._next is None or number == self._next or number <= self._next - RESTART:
            restarted = self._next is not None and number < self._next
            earlier = list(self.flush()) if restarted else []
            self._next = number + 1
            return [*earlier, message, *self._successors()]
        if number < self._next:
            return ()
        self._buffered.setdefault(number, message)
        return self._skip_gap() if len(self._buffered) > WINDOW else ()

    def flush(self) -> Sequence[bytes]:
        """Return all buffered messages, and do not wait for the missing ones between them any more."""
        messages = [self._buffered[number] for number in sorted(self._buffered)]
        if self._buffered:
            self._next = max(self._buffered) + 1
            self._buffered.clear()
        return messages

    def _skip_gap(self) -> list[bytes]:
        self._next = min(self._buffered)
        return self._successors()

    def _successors(self) -> list[bytes]:
        messages = []
        assert self._next is not None
        while self._next in self._buffered:
            messages.append(self._buffered.pop(self._next))
            self._next += 1
        return messages
