# SPDX-License-Identifier: BSD-2-Clause
"""The events of a media stream, the same for all carriers.

An event is the meaning of a message. A dialect (`serializers.dialect.Dialect`) is a carrier's JSON for it.
Every optional field here is left out by at least one carrier (docs/reference/carriers.md §1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Encoding = Literal["mulaw", "alaw", "linear16", "g722", "opus", "amr-wb", "unknown"]
"""Our names, whatever the carrier calls them. "linear16" is signed 16-bit PCM, "unknown" any other codec."""

Track = Literal["inbound", "outbound"]

NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """The format of the audio in one direction of a call.

    `sample_rate`: Hz. `big_endian`: the byte order of "linear16" (docs/reference/carriers.md §3.3).
    """

    encoding: Encoding = "mulaw"
    sample_rate: int = 8000
    channels: int = 1
    big_endian: bool = False


@dataclass(frozen=True, slots=True)
class Connected:
    """The carrier has opened the socket. `start` follows.

    Plivo does not send it (docs/reference/carriers.md §4.2).
    """

    protocol: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """The call that the socket is for: its ids, its numbers, and the format of its audio.

    `parameters`: the custom data of the carrier's document.
    """

    call_id: str
    stream_id: str
    account_id: str | None = None
    from_number: str | None = None
    to_number: str | None = None
    audio: AudioFormat = AudioFormat()
    parameters: Mapping[str, str] = field(default_factory=lambda: NO_PARAMETERS)
    tracks: tuple[str, ...] = ("inbound",)
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Media:
    """A piece of audio in the call's AudioFormat.

    `timestamp_ms`: since the stream's start; in Plivo's examples since 1970. `sample_rate`: Hz, of an agent's
    message that says it.
    """

    payload: bytes
    track: Track | None = None
    chunk: int | None = None
    timestamp_ms: int | None = None
    sequence: int | None = None
    sample_rate: int | None = None


@dataclass(frozen=True, slots=True)
class Dtmf:
    """Keys of a telephone (`0-9*#A-D`): one from a carrier, one or more to Plivo, the only carrier to accept
    them.

    `timestamp_ms`: since 1970, sent by Telnyx and Plivo. `duration_ms`: sent by Exotel.
    """

    digits: str
    sequence: int | None = None
    timestamp_ms: int | None = None
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """Agent to carrier: send `Played` when all audio before this has been played."""

    name: str


@dataclass(frozen=True, slots=True)
class Played:
    """Carrier to agent: playback has passed the mark, or a clear has discarded it (docs/reference/carriers.md
    §2.3).
    """

    name: str
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Clear:
    """Agent to carrier: discard the audio that has not been played."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """Carrier to agent: the audio has been discarded.

    Only Plivo sends it (docs/reference/carriers.md §4.2).
    """

    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """The carrier's stream has ended, and the socket closes next. Plivo closes the socket without it."""

    reason: str | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Error:
    """The carrier reports an error in a message that it received."""

    code: int | None = None
    title: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """A well-formed message with an `event` that the dialect does not know. It is passed on unread."""

    event: str


CarrierEvent = Connected | Start | Media | Dtmf | Played | Cleared | Stop | Error | Unknown
AgentEvent = Media | Mark | Clear | Dtmf | Unknown
