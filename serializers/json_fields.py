# SPDX-License-Identifier: BSD-2-Clause
"""Reading carriers' JSON loosely and writing ours exactly: what the dialects share.

Every reader raises DialectError and nothing else, whatever the message holds. Where a reader takes several
keys, they are spellings of one field; the first that is there and not null counts.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from urllib.parse import unquote

from serializers.dialect import DialectError
from serializers.events import AudioFormat, Encoding, Track

Json = Mapping[str, object]

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")  # 18 digits always fit the 64 bits of a database column
_LARGEST = 10**18
_DIGITS = re.compile(r"[0-9A-D*#]+")


def read_object(message: str | bytes) -> Json:
    """The message as a JSON object (RFC 8259), refusing what the RFC leaves to chance: a key twice, NaN."""
    try:
        value = _DECODER.decode(message.decode() if isinstance(message, bytes) else message)
    except DialectError:
        raise
    except UnicodeDecodeError:
        raise DialectError("the message is not UTF-8") from None
    except ValueError:
        raise DialectError("the message is not JSON") from None
    except RecursionError:
        raise DialectError("the message is nested too deeply") from None
    if not isinstance(value, dict):
        raise DialectError("the message is not a JSON object")
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise DialectError("the message has a key twice")
    return found


def _no_constant(_: str) -> object:
    raise DialectError("the message has a number that JSON does not know")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def write_object(message: Json) -> str:
    """Compact JSON, in ASCII, keys in the order given."""
    return json.dumps(message, separators=(",", ":"))


def _value(of: Json, keys: tuple[str, ...]) -> object:
    for key in keys:
        if (value := of.get(key)) is not None:
            return value
    return None


def event_name(message: Json) -> str:
    """What the message says it is."""
    event = message.get("event")
    if not isinstance(event, str) or not event:
        raise DialectError("`event` is missing")
    return _encodable(event, "event")


def child(of: Json, *keys: str) -> Json:
    """The object under one of the keys."""
    value = _value(of, keys)
    if not isinstance(value, dict):
        raise DialectError(f"`{keys[0]}` is missing or no object")
    return value


def optional_child(of: Json, *keys: str) -> Json:
    """The object under one of the keys; an empty one where there is none."""
    return {} if _value(of, keys) is None else child(of, *keys)


def text(of: Json, *keys: str) -> str:
    """A text that must be there and say something."""
    value = optional_text(of, *keys)
    if not value:
        raise DialectError(f"`{keys[0]}` is missing")
    return value


def optional_text(of: Json, *keys: str) -> str | None:
    """A text or None. A whole number passes for text: ids, digits and phone numbers come as either."""
    value = _value(of, keys)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DialectError(f"`{keys[0]}` is no text")
    return _encodable(value, keys[0])


def _encodable(value: str, what: str) -> str:
    # "\ud800" is legal JSON; as text it would break the log, the database and the next socket it meets.
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DialectError(f"{what} holds half a character") from None
    return value


def optional_integer(of: Json, *keys: str) -> int | None:
    """A whole number or None: 41 or "41" (docs/reference/carriers.md §1, "seq / chunk JSON type"); ""
    counts as None.
    """
    value = _value(of, keys)
    if value is None or value == "":
        return None
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST:
        return value
    raise DialectError(f"`{keys[0]}` is no whole number")


def payload(of: Json) -> bytes:
    """The sound of a media message: base64 (RFC 4648 §4) under "payload"; it may be empty."""
    value = of.get("payload")
    if not isinstance(value, str):
        raise DialectError("the media message has no `payload`")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise DialectError("`payload` is not base64") from None


def base64_text(sound: bytes) -> str:
    """Sound as a carrier's payload."""
    return base64.b64encode(sound).decode("ascii")


def texts(of: Json, key: str) -> tuple[str, ...]:
    """A list of texts, or nothing."""
    value = of.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DialectError(f"`{key}` is no list of texts")
    return tuple(_encodable(item, key) for item in value)


def parameters(value: object, separators: str = ";,") -> dict[str, str]:
    """Custom data in each form seen (docs/reference/carriers.md §3.2, §4.2).

    The forms: object, list of {name, value}, JSON text, text of pairs `k=v;k2=v2`. Values become texts; null
    ones are dropped. `separators`: which character parts pairs in text; the first that occurs in it does.
    """
    if value is None:
        return {}
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [_named_value(item) for item in value]
    elif isinstance(value, str):
        return _parameters_in_text(value, separators)
    else:
        raise DialectError("the custom parameters are neither object, list nor text")
    return {
        _encodable(name, "custom parameters"): _encodable(_as_text(item), "custom parameters")
        for name, item in pairs
        if item is not None
    }


def _named_value(item: object) -> tuple[str, object]:
    if not isinstance(item, dict):
        raise DialectError("the custom parameters have an entry without a name")
    return text(item, "name"), item.get("value")


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, separators=(",", ":"))
    except RecursionError:
        raise DialectError("the custom parameters are nested too deeply") from None


def _parameters_in_text(value: str, separators: str) -> dict[str, str]:
    if value.lstrip().startswith("{"):
        try:
            return parameters(read_object(value))
        except DialectError:
            pass  # a brace may also begin a pair; custom data alone is no reason to lose a call
    separator = next((mark for mark in separators if mark in value), separators[0])
    found: dict[str, str] = {}
    name = ""
    for part in value.split(separator):
        key, equals, item = part.partition("=")
        if equals and key.strip():
            name = unquote(key.strip())
            found[name] = unquote(item.strip())
        elif name:  # no pair: the separator was part of the value before it
            found[name] += separator + unquote(part)
    return {
        _encodable(key, "custom parameters"): _encodable(item, "custom parameters")
        for key, item in found.items()
    }


def known_integer(value: int | None, what: str) -> int:
    """A number that only the sender can know, for a message that must have it."""
    if value is None:
        raise DialectError(f"{what} is not given")
    if not -_LARGEST < value < _LARGEST:
        raise DialectError(f"{what} is out of all proportion")
    return value


def known_text(value: str | None, what: str) -> str:
    """A text that only the sender can know, for a message that must have it."""
    if not value:
        raise DialectError(f"{what} is not given")
    return _encodable(value, what)


def known_parameters(given: Mapping[str, str]) -> dict[str, str]:
    """Custom data to be sent as an object."""
    return {
        _encodable(key, "custom parameters"): _encodable(given[key], "custom parameters") for key in given
    }


def digits(value: str, longest: int | None = 1) -> str:
    """Keys of a telephone, to be sent: `0-9*#A-D`, one or (longest None) any number of them."""
    if not _DIGITS.fullmatch(value) or (longest is not None and len(value) > longest):
        raise DialectError("the digits are not keys of a telephone")
    return value


LONGEST_RATE_HZ = 192_000
MOST_CHANNELS = 8

# docs/reference/carriers.md §2.2, §3.2, §4.3; without parameters (";rate=8000") and in lower case.
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


def read_rate(of: Json, *keys: str) -> int:
    """A sample rate in Hz; 8000 where none is given."""
    rate = optional_integer(of, *keys)
    if rate is None:
        return 8000
    if not 0 < rate <= LONGEST_RATE_HZ:
        raise DialectError("the sample rate is no sample rate")
    return rate


def read_channels(of: Json) -> int:
    """The number of channels; 1 where none is given."""
    channels = optional_integer(of, "channels")
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


def read_track(of: Json) -> Track | None:
    """Which way the sound goes; Twilio writes `inbound_track` in some messages (docs/reference/carriers.md
    §2.2).
    """
    match of.get("track"):
        case "inbound" | "inbound_track":
            return "inbound"
        case "outbound" | "outbound_track":
            return "outbound"
        case _:
            return None


def read_tracks(start: Json) -> tuple[str, ...]:
    """The tracks that `start` announces; the caller's alone where it announces none."""
    return tuple(name.removesuffix("_track") for name in texts(start, "tracks")) or ("inbound",)
