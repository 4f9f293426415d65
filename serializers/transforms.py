# SPDX-License-Identifier: BSD-2-Clause
"""Per-message changes on the way between carrier and agent. Pure; one object for each direction of a call.

A bot on Pipecat crashes on a message that is not JSON or has no event, and hears its own voice if the
outbound track is sent to it (docs/reference/carriers.md §8.2). These transforms prevent that. All other
messages pass unchanged, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from serializers.reorder import ReorderBuffer

UNREADABLE: Final = (ValueError, RecursionError)
"""The exceptions of reading a message: no JSON, no UTF-8, nested without end.

The text is decoded as a whole first. msgspec does not look at the parts that it skips, and a WebSocket
library of a bot ends the call over invalid UTF-8.
"""

UNCHANGED: Final = None
NOTHING: Final[Sequence[bytes]] = ()


class Transform(Protocol):
    """Changes the messages of one direction."""

    @property
    def has_buffered(self) -> bool:
        """Whether `flush` would return messages."""

    def feed(self, message: bytes) -> Sequence[bytes] | None:
        """Return the messages to pass on instead of this one, in order, or UNCHANGED to pass it on itself."""

    def flush(self) -> Sequence[bytes]:
        """Return the buffered messages. Call it when no message has arrived for a while."""


class Audio(msgspec.Struct, frozen=True):
    """The `media` of a message."""

    payload: str | None = None
    track: str | None = None


class Message(msgspec.Struct, frozen=True):
    """The part of any carrier's message that the transforms read."""

    event: str
    media: Audio | None = None


_decode = msgspec.json.Decoder(Message).decode


class ToAgent:
    """Carrier to agent: drops what is no message, and audio that is not the caller's."""

    has_buffered = False

    def feed(self, message: bytes) -> Sequence[bytes] | None:
        """Return UNCHANGED or NOTHING."""
        try:
            parsed = _decode(message.decode())
        except UNREADABLE:
            return NOTHING
        if parsed.event != "media":
            return UNCHANGED
        media = parsed.media
        if media is None or media.payload is None or media.track == "outbound":
            return NOTHING
        return UNCHANGED

    def flush(self) -> Sequence[bytes]:
        """Return nothing: no message is buffered."""
        return NOTHING


class ToAgentInOrder(ToAgent):
    """ToAgent for a carrier that does not promise to send its media messages in order."""

    def __init__(self) -> None:
        self._buffer = ReorderBuffer()

    @property
    def has_buffered(self) -> bool:  # type: ignore[override]  # a constant in the base class
        """Whether messages wait for their predecessor."""
        return self._buffer.has_buffered

    def feed(self, message: bytes) -> Sequence[bytes] | None:
        """Return the messages whose turn it is."""
        if super().feed(message) is not UNCHANGED:
            return NOTHING
        messages = self._buffer.feed(message)
        return UNCHANGED if len(messages) == 1 and messages[0] is message else messages

    def flush(self) -> Sequence[bytes]:
        """Return the buffered messages, although messages between them are missing."""
        return self._buffer.flush()


class ToCarrier:
    """Agent to carrier: drops what is no message."""

    has_buffered = False

    def feed(self, message: bytes) -> Sequence[bytes] | None:
        """Return UNCHANGED or NOTHING."""
        try:
            _decode(message.decode())
        except UNREADABLE:
            return NOTHING
        return UNCHANGED

    def flush(self) -> Sequence[bytes]:
        """Return nothing: no message is buffered."""
        return NOTHING


# Values stay bytes, so they are written again exactly as they were.
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_read_id = msgspec.json.Decoder(str).decode


class RenameStreamId:
    """Replaces the stream's id in the messages that another transform passes on.

    `field`: the message's field with the stream's id. All other fields, and their order, stay.
    """

    def __init__(self, inner: Transform, field: str, *, old: str, new: str) -> None:
        self._inner = inner
        self._field = field
        self._old = old
        self._new = msgspec.Raw(_encode(new))

    @property
    def has_buffered(self) -> bool:
        """Whether the inner transform has buffered messages."""
        return self._inner.has_buffered

    def feed(self, message: bytes) -> Sequence[bytes] | None:
        """Return the inner transform's messages with the new id."""
        messages = self._inner.feed(message)
        if messages is not UNCHANGED:
            return tuple(map(self._rename, messages))
        renamed = self._rename(message)
        return UNCHANGED if renamed is message else (renamed,)

    def flush(self) -> Sequence[bytes]:
        """Return the inner transform's buffered messages with the new id."""
        return tuple(map(self._rename, self._inner.flush()))

    def _rename(self, message: bytes) -> bytes:
        """Return the message with the new id; the same object if it does not contain the old one."""
        try:
            fields = _decode_fields(message)
            if _read_id(fields.get(self._field, b"")) != self._old:
                return message
        except UNREADABLE:
            return message
        return _encode(fields | {self._field: self._new})
