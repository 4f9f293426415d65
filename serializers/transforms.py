# SPDX-License-Identifier: BSD-2-Clause
"""What a message coupling lets through, and what it makes of it. Pure; one object a direction of a call.

A bot on Pipecat dies of a message that is not JSON or has no event, feeds itself its own voice when it is
sent the outbound track (docs/reference/carriers.md §8.2), and speaks to Exotel in pieces that Exotel
stumbles over (§5.2). These filters keep that from happening. Whatever they do not mind they leave exactly
as it came.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from serializers.dialect import Dialect
from serializers.reorder import InOrder

EXOTEL_LEAST_BYTES: Final = 3200
EXOTEL_STEP_BYTES: Final = 320
"""Exotel wants sound in multiples of 320 bytes and at least 3,200 at a time (docs/reference/carriers.md
§5.2).
"""

EXOTEL_MOST_BYTES: Final = 96_000
"""Below the 100,000 from which on Exotel times out; a multiple of the step."""

_NO_MESSAGE: Final = (ValueError, RecursionError)
"""What reading raises: of no JSON, of text that is not UTF-8, and of depth without end. The text is decoded
whole, because msgspec does not look at what it skips, and bots' WebSocket libraries end a call over it."""

UNCHANGED: Final = None
NOTHING: Final[Sequence[bytes]] = ()


class Filter(Protocol):
    """One direction."""

    @property
    def waiting(self) -> bool:
        """Whether something is kept that `flush` would give."""

    def feed(self, message: bytes) -> Sequence[bytes] | None:
        """The messages to pass on instead of this one, in order; UNCHANGED to pass it on as it came."""

    def flush(self) -> Sequence[bytes]:
        """Nothing came for a while: what was kept for more to come is passed on now."""


class _Sound(msgspec.Struct, frozen=True):
    payload: str | None = None
    track: str | None = None


class _Message(msgspec.Struct, frozen=True):
    """As much of any carrier's message as the filters must know."""

    event: str
    media: _Sound | None = None


_decode = msgspec.json.Decoder(_Message).decode


class ToAgent:
    """Carrier to agent: only what is a message, and only the caller's sound."""

    waiting = False

    def feed(self, message: bytes) -> Sequence[bytes] | None:
        try:
            read = _decode(message.decode())
        except _NO_MESSAGE:
            return NOTHING
        if read.event != "media":
            return UNCHANGED
        sound = read.media
        if sound is None or sound.payload is None or sound.track == "outbound":
            return NOTHING
        return UNCHANGED

    def flush(self) -> Sequence[bytes]:
        return NOTHING


class ToAgentInOrder(ToAgent):
    """The same, for a carrier whose sound comes in no promised order."""

    def __init__(self) -> None:
        self._order = InOrder()

    @property
    def waiting(self) -> bool:  # type: ignore[override]  # here it changes
        return self._order.waiting

    def feed(self, message: bytes) -> Sequence[bytes] | None:
        if super().feed(message) is not UNCHANGED:
            return NOTHING
        passing = self._order.feed(message)
        return UNCHANGED if len(passing) == 1 and passing[0] is message else passing

    def flush(self) -> Sequence[bytes]:
        return self._order.flush()


class ToCarrier:
    """Agent to carrier: only what is a message."""

    waiting = False

    def feed(self, message: bytes) -> Sequence[bytes] | None:
        try:
            _decode(message.decode())
        except _NO_MESSAGE:
            return NOTHING
        return UNCHANGED

    def flush(self) -> Sequence[bytes]:
        return NOTHING


class _ExotelMessage(msgspec.Struct, frozen=True):
    event: str
    stream_sid: str = ""
    media: _Sound | None = None


_decode_exotel = msgspec.json.Decoder(_ExotelMessage).decode
_encode = msgspec.json.Encoder().encode


class ToExotel:
    """Agent to Exotel: sound in pieces of the size that Exotel plays without gaps."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._stream_sid = ""

    @property
    def waiting(self) -> bool:
        return bool(self._kept)

    def feed(self, message: bytes) -> Sequence[bytes] | None:
        try:
            read = _decode_exotel(message.decode())
        except _NO_MESSAGE:
            return NOTHING
        if read.event == "clear":
            self._kept.clear()  # it is to be thrown away there, so here as well
            return UNCHANGED
        if read.event != "media":
            return [*self.flush(), message]
        sound = _sound_of(read)
        if not self._kept and _plays_well(len(sound)):
            return UNCHANGED
        self._stream_sid = read.stream_sid
        self._kept += sound
        return self._whole_pieces()

    def flush(self) -> Sequence[bytes]:
        """The rest, filled up with silence to a piece that Exotel plays."""
        if not self._kept:
            return NOTHING
        missing = max(EXOTEL_LEAST_BYTES - len(self._kept), -len(self._kept) % EXOTEL_STEP_BYTES)
        self._kept += bytes(missing)
        return self._whole_pieces()

    def _whole_pieces(self) -> list[bytes]:
        pieces = []
        while len(self._kept) >= EXOTEL_LEAST_BYTES:
            size = min(len(self._kept), EXOTEL_MOST_BYTES)
            size -= size % EXOTEL_STEP_BYTES
            payload = base64.b64encode(self._kept[:size]).decode()
            del self._kept[:size]
            pieces.append(
                _encode({"event": "media", "stream_sid": self._stream_sid, "media": {"payload": payload}})
            )
        return pieces


def _sound_of(message: _ExotelMessage) -> bytes:
    """The sound of a media message; none where it has none that can be read."""
    try:
        return base64.b64decode(message.media.payload or "", validate=True) if message.media else b""
    except ValueError:
        return b""


def _plays_well(size: int) -> bool:
    return EXOTEL_LEAST_BYTES <= size <= EXOTEL_MOST_BYTES and size % EXOTEL_STEP_BYTES == 0


def filters_of(carrier: str) -> tuple[Filter, Filter]:
    """The filters of one call: carrier to agent, agent to carrier."""
    return (
        ToAgentInOrder() if carrier == "telnyx" else ToAgent(),
        ToExotel() if carrier == "exotel" else ToCarrier(),
    )


# Values stay bytes: they are written as they came, whatever is in them.
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
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
            fields = _decode_fields(message)
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
