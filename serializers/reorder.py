# SPDX-License-Identifier: BSD-2-Clause
"""Sound in its order, for a carrier that does not promise it: Telnyx (docs/reference/carriers.md §3.2). Pure.

A piece that comes before the one it follows is kept until that comes, but never for more than WINDOW pieces,
nor over a pause of the carrier. What comes after its place was passed is thrown away: played late it is worse
than missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

WINDOW: Final = 5
"""Pieces that may be kept: 100 ms of sound."""

RESTART: Final = 500
"""So far back a number is no late piece: the carrier has begun to count anew. 10 s of sound."""


class _Numbered(msgspec.Struct, frozen=True):
    chunk: str | int | None = None


class _Message(msgspec.Struct, frozen=True):
    event: str
    media: _Numbered | None = None


_decode = msgspec.json.Decoder(_Message).decode


class InOrder:
    """One direction of one call. What is no sound is passed on as it comes, `stop` behind all sound."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._kept: dict[int, bytes] = {}

    @property
    def waiting(self) -> bool:
        """Whether something is kept."""
        return bool(self._kept)

    def feed(self, message: bytes) -> Sequence[bytes]:
        """What is to be passed on now, in order."""
        try:
            read = _decode(message)
            number = None if read.media is None or read.media.chunk is None else int(read.media.chunk)
        except (ValueError, RecursionError):  # no JSON, or no number: others judge that
            return (message,)
        if read.event == "stop":
            return [*self.flush(), message]
        if read.event != "media" or number is None:
            return (message,)
        if self._next is None or number == self._next or number <= self._next - RESTART:
            passing = list(self.flush()) if self._next is not None and number < self._next else []
            self._next = number + 1
            return [*passing, message, *self._followers()]
        if number < self._next:
            return ()
        self._kept.setdefault(number, message)
        return self._skip() if len(self._kept) > WINDOW else ()

    def flush(self) -> Sequence[bytes]:
        """Everything that is kept; what was missing between is not waited for any more."""
        kept = [self._kept[number] for number in sorted(self._kept)]
        if self._kept:
            self._next = max(self._kept) + 1
            self._kept.clear()
        return kept

    def _skip(self) -> list[bytes]:
        self._next = min(self._kept)
        return self._followers()

    def _followers(self) -> list[bytes]:
        found = []
        assert self._next is not None
        while self._next in self._kept:
            found.append(self._kept.pop(self._next))
            self._next += 1
        return found
