# SPDX-License-Identifier: BSD-2-Clause
"""Media messages of a dialect with JSON, fast: most messages of a call are media, and differ in four values.

What a dialect writes for one is taken apart once a call. So the bytes are those of the dialect, whatever it
writes.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Callable
from operator import itemgetter
from typing import Final

import msgspec

from serializers.dialect import DialectError
from serializers.events import Media
from serializers.transforms import UNREADABLE

_SEQUENCE: Final = 8_100_000_001
_CHUNK: Final = 8_200_000_002
_TIMESTAMP: Final = 8_300_000_003
_PAYLOAD: Final = b"the sound of a message, whatever it is"
_VALUES: Final = (
    str(_SEQUENCE).encode(),
    str(_CHUNK).encode(),
    str(_TIMESTAMP).encode(),
    b2a_base64(_PAYLOAD, newline=False),
)


class _Sound(msgspec.Struct, frozen=True):
    payload: str
    track: str | None = None


class _Media(msgspec.Struct, frozen=True):
    event: str
    media: _Sound | None = None


_read = msgspec.json.Decoder(_Media).decode

OTHER_TRACK: Final = b""
"""The sound of a message on another track than the caller's: none."""


def read_sound(message: bytes, events: frozenset[str]) -> bytes | None:
    """Return the sound of a media message, whose event is one of `events`; None for any other message.

    Raises DialectError for one whose sound is not base64.
    """
    try:
        parsed = _read(message)
    except UNREADABLE:
        return None  # another event may have anything under `media`
    if parsed.event not in events or parsed.media is None:
        return None
    if parsed.media.track not in (None, "inbound"):
        return OTHER_TRACK
    try:
        return a2b_base64(parsed.media.payload, strict_mode=True)
    except (Error, ValueError):
        raise DialectError("`payload` is not base64") from None


class MediaText:
    """Writes the media messages of one stream."""

    def __init__(self, write: Callable[[Media], str]) -> None:
        """`write`: writes one as its dialect does. Raises DialectError as that does."""
        sample = Media(_PAYLOAD, track="inbound", chunk=_CHUNK, timestamp_ms=_TIMESTAMP, sequence=_SEQUENCE)
        text = write(sample).encode()
        places = sorted((text.index(value), number) for number, value in enumerate(_VALUES) if value in text)
        self._template = text.replace(b"%", b"%%")
        for value in _VALUES[:3]:
            self._template = self._template.replace(value, b"%d")
        self._template = self._template.replace(_VALUES[3], b"%b")
        order = [number for _, number in places]
        self._in_order = itemgetter(*order) if len(order) > 1 else lambda values: (values[order[0]],)

    def write(self, sound: bytes, sequence: int = 0, chunk: int = 0, timestamp_ms: int = 0) -> bytes:
        """Return a message with this sound."""
        values = (sequence, chunk, timestamp_ms, b2a_base64(sound, newline=False))
        return self._template % self._in_order(values)
