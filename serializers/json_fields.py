# SPDX-License-Identifier: BSD-2-Clause
"""Lenient reading and exact writing of JSON fields, for all dialects.

Every function raises DialectError and no other exception, whatever the message contains. A reader with
several keys takes different names of one field: the first that is present and not null counts.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from serializers.dialect import DialectError
from serializers.events import AudioFormat, Encoding, Track

Json = Mapping[str, object]

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")  # 18 digits always fit the 64 bits of a database column
_MAX_INTEGER = 10**18
_DIGITS = re.compile(r"[0-9A-D*#]+")


def read_object(message: str | bytes) -> Json:
    """Parse a message as a JSON object (RFC 8259).

    Duplicate keys and NaN, which the RFC leaves open, are refused.
    """
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
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise DialectError("the message has a key twice")
    return unique


def _refuse_constant(_: str) -> object:
    raise DialectError("the message has a number that JSON does not know")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)


def write_object(message: Json) -> str:
    """Return compact JSON in ASCII, with the keys in the given order."""
    return json.dumps(message, separators=(",", ":"))


def _value(message: Json, keys: tuple[str, ...]) -> object:
    for key in keys:
        if (value := message.get(key)) is not None:
            return value
    return None


def event_name(message: Json) -> str:
    """Return the message's `event`."""
    event = message.get("event")
    if not isinstance(event, str) or not event:
        raise DialectError("`event` is missing")
    return _encodable(event, "event")


def child(message: Json, *keys: str) -> Json:
    """Return the object under one of the keys."""
    value = _value(message, keys)
    if not isinstance(value, dict):
        raise DialectError(f"`{keys[0]}` is missing or no object")
    return value


def optional_child(message: Json, *keys: str) -> Json:
    """Return the object under one of the keys, empty if there is none."""
    return {} if _value(message, keys) is None else child(message, *keys)


def text(message: Json, *keys: str) -> str:
    """Return a text that must be present and not empty."""
    value = optional_text(message, *keys)
    if not value:
        raise DialectError(f"`{keys[0]}` is missing")
    return value


def text_in(messages: Sequence[Json], *keys: str) -> str:
    """Return a text that must be present and not empty in one of the messages: the first counts."""
    value = optional_text_in(messages, *keys)
    if value is None:
        raise DialectError(f"`{keys[0]}` is missing")
    return value


def optional_text_in(messages: Sequence[Json], *keys: str) -> str | None:
    """Return a text of one of the messages, the first that is not empty, or None."""
    return next(filter(None, (optional_text(message, *keys) for message in messages)), None)


def optional_text(message: Json, *keys: str) -> str | None:
    """Return a text or None. A whole number is accepted: ids, digits and numbers are sent as either."""
    value = _value(message, keys)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DialectError(f"`{keys[0]}` is no text")
    return _encodable(value, keys[0])


def _encodable(value: str, label: str) -> str:
    # "\ud800" is legal JSON, but the log, the database and sockets cannot encode it.
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DialectError(f"{label} holds half a character") from None
    return value


def optional_integer(message: Json, *keys: str) -> int | None:
    """Return a whole number or None: 41 or "41" (docs/reference/carriers.md §1, "seq / chunk JSON type").

    An empty text counts as None.
    """
    value = _value(message, keys)
    if value is None or value == "":
        return None
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and -_MAX_INTEGER < value < _MAX_INTEGER:
        return value
    raise DialectError(f"`{keys[0]}` is no whole number")


def payload(message: Json) -> bytes:
    """Return the audio of a media message: base64 (RFC 4648 §4) under "payload", which may be empty."""
    value = message.get("payload")
    if not isinstance(value, str):
        raise DialectError("the media message has no `payload`")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise DialectError("`payload` is not base64") from None


def base64_text(audio: bytes) -> str:
    """Return audio as the payload of a media message."""
    return base64.b64encode(audio).decode("ascii")


def texts(message: Json, key: str) -> tuple[str, ...]:
    """Return a list of texts, empty if there is none."""
    value = message.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DialectError(f"`{key}` is no list of texts")
    return tuple(_encodable(item, key) for item in value)


def parameters(value: object, separators: str = ";,") -> dict[str, str]:
    """Return the custom parameters from any form that carriers use (docs/reference/carriers.md §3.2, §4.2).

    The forms are an object, a list of {name, value}, JSON in a text, and pairs in a text: `k=v;k2=v2`, also
    with colons, and in braces as in `{k: v, k2: v2}`. Values become texts, null values are dropped.
    `separators`: the characters that may separate pairs; the first that occurs in the text does.
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
    """Return the pairs of a text: `k=v;k2=v2`, `k:v,k2:v2`, or in braces `{k: v, k2=v2}`.

    Outside of braces the sign that comes first, = or :, is that of all pairs: values may hold the other.
    """
    text = value.strip()
    if text.startswith("{"):
        try:
            return parameters(read_object(text))
        except DialectError:
            pass  # A brace may also begin a pair. Malformed custom data is no reason to lose a call.
    in_braces = text.startswith("{") and text.endswith("}")
    text = text[1:-1] if in_braces else value
    signs = "=:" if in_braces else next((character for character in text if character in "=:"), "=")
    separator = next((character for character in separators if character in text), separators[0])
    pairs: dict[str, str] = {}
    name = ""
    for part in text.split(separator):
        at = min((found for sign in signs if (found := part.find(sign)) >= 0), default=0)
        if key := part[:at].strip():
            name = unquote(_unquoted(key) if in_braces else key)
            item = part[at + 1 :].strip()
            pairs[name] = unquote(_unquoted(item) if in_braces else item)
        elif name:  # not a pair: the separator is part of the value before it
            pairs[name] += separator + unquote(part)
    return {
        _encodable(key, "custom parameters"): _encodable(item, "custom parameters")
        for key, item in pairs.items()
    }


def _unquoted(item: str) -> str:
    is_quoted = len(item) > 1 and item[0] == item[-1] and item[0] in "\"'"
    return item[1:-1] if is_quoted else item


def known_integer(value: int | None, label: str) -> int:
    """Return a number that the sender must know. `label` names it in the message."""
    if value is None:
        raise DialectError(f"{label} is not given")
    if not -_MAX_INTEGER < value < _MAX_INTEGER:
        raise DialectError(f"{label} is out of all proportion")
    return value


def known_text(value: str | None, label: str) -> str:
    """Return a text that the sender must know. `label` names it in the message."""
    if not value:
        raise DialectError(f"{label} is not given")
    return _encodable(value, label)


def known_parameters(values: Mapping[str, str]) -> dict[str, str]:
    """Return custom parameters to be sent as an object."""
    return {
        _encodable(name, "custom parameters"): _encodable(value, "custom parameters")
        for name, value in values.items()
    }


def digits(value: str, max_digits: int | None = 1) -> str:
    """Return keys of a telephone to be sent: `0-9*#A-D`. `max_digits`: None for any number of keys."""
    if not _DIGITS.fullmatch(value) or (max_digits is not None and len(value) > max_digits):
        raise DialectError("the digits are not keys of a telephone")
    return value


MAX_RATE_HZ = 192_000
MAX_CHANNELS = 8

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
    """Return our name of a carrier's encoding. None stands for μ-law, every carrier's default.

    A name that is not known is no reason to refuse a call: the relay passes sound on as it comes.
    """
    if name is None:
        return "mulaw"
    return _ENCODINGS.get(name.partition(";")[0].strip().lower(), "unknown")


def read_rate(message: Json, *keys: str) -> int:
    """Return a sample rate in Hz, 8000 if there is none."""
    rate = optional_integer(message, *keys)
    if rate is None:
        return 8000
    if not 0 < rate <= MAX_RATE_HZ:
        raise DialectError("the sample rate is no sample rate")
    return rate


def read_channels(message: Json) -> int:
    """Return the number of channels, 1 if it is not given."""
    channels = optional_integer(message, "channels")
    if channels is None:
        return 1
    if not 0 < channels <= MAX_CHANNELS:
        raise DialectError("the number of channels is none")
    return channels


def write_encoding(audio: AudioFormat, names: Mapping[Encoding, str]) -> str:
    """Return the carrier's name of the encoding. Raises DialectError if the carrier does not have it."""
    if audio.encoding not in names:
        raise DialectError(f"the carrier does not send {audio.encoding}")
    return names[audio.encoding]


def mono(audio: AudioFormat) -> AudioFormat:
    """Return the format, for carriers that only have one channel. Raises DialectError if it has more."""
    if audio.channels != 1:
        raise DialectError("the carrier sends one channel")
    return audio


def read_track(message: Json) -> Track | None:
    """Return the direction of the audio.

    Twilio writes `inbound_track` in some messages (docs/reference/carriers.md §2.2).
    """
    match message.get("track"):
        case "inbound" | "inbound_track":
            return "inbound"
        case "outbound" | "outbound_track":
            return "outbound"
        case _:
            return None


def read_tracks(start: Json) -> tuple[str, ...]:
    """Return the tracks that `start` announces, only the caller's if it announces none."""
    return tuple(name.removesuffix("_track") for name in texts(start, "tracks")) or ("inbound",)
