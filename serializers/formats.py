# SPDX-License-Identifier: BSD-2-Clause
"""How carriers name tracks and audio formats, and what we call them."""

from __future__ import annotations

from collections.abc import Mapping

from serializers import wire
from serializers.dialect import DialectError
from serializers.events import AudioFormat, Encoding, Track

LONGEST_RATE_HZ = 192_000
MOST_CHANNELS = 8

# carriers.md §2.2, §3.2, §4.3; without parameters (";rate=8000") and in lower case.
_ENCODINGS: Mapping[str, Encoding] = {
    "audio/x-mulaw": "mulaw",
    "audio/pcmu": "mulaw",
    "pcmu": "mulaw",
    "mulaw": "mulaw",
    "audio/x-alaw": "alaw",
    "audio/pcma": "alaw",
    "pcma": "alaw",
    "alaw": "alaw",
    "audio/x-l16": "linear16",
    "audio/l16": "linear16",
    "l16": "linear16",
    "linear16": "linear16",
    "g722": "g722",
    "opus": "opus",
    "amr-wb": "amr-wb",
}


def read_encoding(name: str | None) -> Encoding:
    """Our name of a carrier's encoding; μ-law, every carrier's default, where none is named."""
    if name is None:
        return "mulaw"
    encoding = _ENCODINGS.get(name.partition(";")[0].strip().lower())
    if encoding is None:
        raise DialectError("the encoding of the sound is unknown")
    return encoding


def read_rate(of: wire.Json, *keys: str) -> int:
    """A sample rate in Hz; 8000 where none is given."""
    rate = wire.optional_integer(of, *keys)
    if rate is None:
        return 8000
    if not 0 < rate <= LONGEST_RATE_HZ:
        raise DialectError("the sample rate is no sample rate")
    return rate


def read_channels(of: wire.Json) -> int:
    """The number of channels; 1 where none is given."""
    channels = wire.optional_integer(of, "channels")
    if channels is None:
        return 1
    if not 0 < channels <= MOST_CHANNELS:
        raise DialectError("the number of channels is none")
    return channels


def write_encoding(audio: AudioFormat, names: Mapping[Encoding, str]) -> str:
    """The carrier's name of the encoding, where the carrier has one."""
    if audio.encoding not in names:
        raise DialectError(f"the carrier does not send {audio.encoding}")
    return names[audio.encoding]


def mono(audio: AudioFormat) -> AudioFormat:
    """The format, for carriers whose messages have no word for channels."""
    if audio.channels != 1:
        raise DialectError("the carrier sends one channel")
    return audio


def read_track(of: wire.Json) -> Track | None:
    """Which way the sound goes; Twilio writes `inbound_track` in some messages (carriers.md §2.2)."""
    match of.get("track"):
        case "inbound" | "inbound_track":
            return "inbound"
        case "outbound" | "outbound_track":
            return "outbound"
        case _:
            return None


def read_tracks(start: wire.Json) -> tuple[str, ...]:
    """The tracks that `start` announces; the caller's alone where it announces none."""
    return tuple(name.removesuffix("_track") for name in wire.texts(start, "tracks")) or ("inbound",)
