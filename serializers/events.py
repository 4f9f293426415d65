# SPDX-License-Identifier: BSD-2-Clause
"""What carriers and agents say to each other on a media stream, whatever the dialect.

An event is what a message means; a dialect (`serializers.dialect.Dialect`) is how a carrier spells it.
Everything optional here is something that at least one carrier leaves out (docs/reference/carriers.md §1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Encoding = Literal["mulaw", "alaw", "linear16", "g722", "opus", "amr-wb"]
"""Normalised names; "linear16" is signed 16-bit little-endian PCM."""

Track = Literal["inbound", "outbound"]

NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How sound is coded on one direction of a call.

    `sample_rate` is in Hz; `big_endian` turns the bytes of "linear16" round (docs/reference/carriers.md
    §3.3).
    """

    encoding: Encoding = "mulaw"
    sample_rate: int = 8000
    channels: int = 1
    big_endian: bool = False


@dataclass(frozen=True, slots=True)
class Connected:
    """The carrier's socket is up; `start` follows. Plivo never says it (docs/reference/carriers.md §4.2)."""

    protocol: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """The call behind the socket: who, to whom, and how its sound is coded.

    `parameters` is the custom data of the carrier's document, always strings.
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
    """A piece of sound, coded as the call's AudioFormat says.

    `timestamp_ms` is as the carrier counts: from the stream's start, Plivo's samples from 1970.
    """

    payload: bytes
    track: Track | None = None
    chunk: int | None = None
    timestamp_ms: int | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Dtmf:
    """Digits: one from a carrier (`0-9*#A-D`); one or more towards Plivo, the only one that takes them.

    `timestamp_ms`: when, since 1970, from Telnyx and Plivo; `duration_ms`: how long, from Exotel.
    """

    digits: str
    sequence: int | None = None
    timestamp_ms: int | None = None
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """Agent to carrier: tell me (`Played`) when everything before this has been played."""

    name: str


@dataclass(frozen=True, slots=True)
class Played:
    """Carrier to agent: playback passed the mark, or a clear threw it away (docs/reference/carriers.md
    §2.3).
    """

    name: str
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Clear:
    """Agent to carrier: throw away what has not been played."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """Carrier to agent: it has been thrown away. Only Plivo says so (docs/reference/carriers.md §4.2)."""

    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """The carrier's stream is over; the socket closes next. Plivo only closes."""

    reason: str | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Error:
    """The carrier did not like what it was sent."""

    code: int | None = None
    title: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """A well-formed message whose `event` this dialect does not know; to be passed on, not understood."""

    event: str


CarrierEvent = Connected | Start | Media | Dtmf | Played | Cleared | Stop | Error | Unknown
AgentEvent = Media | Mark | Clear | Dtmf | Unknown
