# SPDX-License-Identifier: BSD-2-Clause
"""A stream that goes on under another id: an agent knows its call's stream by the id of the opening it read.

Where the carrier has opened another stream for the call, each side is told the id that it knows. Pure; on top
of the dialect's own filters (filters.py), which decide what is a message.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from serializers.dialect import Dialect
from serializers.filters import UNCHANGED, Filter, filters_of

# Values stay bytes: they are written as they came, whatever is in them.
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_read_id = msgspec.json.Decoder(str).decode
_UNREADABLE = (ValueError, RecursionError)


class Renaming:
    """One direction: what `inner` lets through, with the one id in place of the other.

    `field`: the message's own field with the stream's id; every other field, and the order, stay.
    """

    def __init__(self, inner: Filter, field: str, *, old: str, new: str) -> None:
        self._inner = inner
        self._field = field
        self._old = old
        self._new = msgspec.Raw(_encode(new))

    @property
    def waiting(self) -> bool:
        return self._inner.waiting

    def feed(self, message: bytes) -> Sequence[bytes] | None:
        passing = self._inner.feed(message)
        if passing is not UNCHANGED:
            return tuple(map(self._renamed, passing))
        renamed = self._renamed(message)
        return UNCHANGED if renamed is message else (renamed,)

    def flush(self) -> Sequence[bytes]:
        return tuple(map(self._renamed, self._inner.flush()))

    def _renamed(self, message: bytes) -> bytes:
        """The message itself where it does not name the stream so."""
        try:
            fields = _decode(message)
            if _read_id(fields.get(self._field, b"")) != self._old:
                return message
        except _UNREADABLE:
            return message
        return _encode(fields | {self._field: self._new})


def renaming_filters(dialect: Dialect, known: str, latest: str) -> tuple[Filter, Filter]:
    """The filters of a call whose agent knows the stream as `known`, and its carrier as `latest`.

    Carrier to agent, agent to carrier.
    """
    to_agent, to_carrier = filters_of(dialect.name)
    field = dialect.stream_id_field
    return (
        Renaming(to_agent, field, old=latest, new=known),
        Renaming(to_carrier, field, old=known, new=latest),
    )
