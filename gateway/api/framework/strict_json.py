# SPDX-License-Identifier: BSD-2-Clause
"""JSON as RFC 8259 defines it, without the extensions of Python's `json`, and its times as of RFC 3339.

msgspec refuses NaN and Infinity (§6), lone surrogates (§8.2), bytes that are not UTF-8 (§8.1) and numbers
that no float can hold. This module adds duplicate names (§4) and nesting deeper than `MAX_DEPTH`.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import msgspec

MAX_DEPTH: Final = 64
"""Arrays and objects inside each other."""

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
MAX_EXPLAINED_BYTES: Final = 65_536
"""The fault of a longer text is told in msgspec's words."""

TOO_DEEP: Final = f"The body is not taken: it is nested deeper than {MAX_DEPTH} levels"
TWICE: Final = "The body is not taken: an object has the same name twice"
_TOO_MANY_DIGITS: Final = "The body is not taken: a number has too many digits"


class JsonError(ValueError):
    """The text is not JSON, or exceeds what is accepted.

    `str()` gives the reason without quoting the text.
    """


def parse(raw: bytes) -> Any:
    """Return the value of a JSON text in UTF-8.

    Raises:
        JsonError: the text is not JSON, has an object with the same name twice, or is nested too deeply.
    """
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise JsonError(reason_of(raw, error)) from None
    members = _count_members(value)
    # Every member has one colon outside strings; of two members with the same name msgspec keeps the last.
    if members and _STRING.sub(b"", raw).count(b":") != members:
        raise JsonError(TWICE)
    return value


def rfc3339(at: float) -> str:
    """Return Unix seconds as a time in UTC, rounded down to the millisecond: "2026-11-21T12:00:00.000Z"."""
    return utc_text(datetime.fromtimestamp(at, UTC))


def rfc3339_or_none(at: float | None) -> str | None:
    """Return Unix seconds as `rfc3339` does; None for None."""
    return None if at is None else rfc3339(at)


def utc_text(moment: datetime) -> str:
    """Return an aware datetime as `rfc3339` does."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def whole_numbers_as_int(value: Any) -> Any:
    """Return the value with each float that is a whole number as an int: JSON does not distinguish them."""
    match value:
        case float():
            return int(value) if value.is_integer() else value
        case dict():
            return {name: whole_numbers_as_int(inner) for name, inner in value.items()}
        case list():
            return [whole_numbers_as_int(inner) for inner in value]
    return value


def _count_members(value: Any) -> int:
    """Return the number of members of all objects in the value.

    Raises JsonError if it is nested too deeply.
    """
    members = depth = 0
    level = [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise JsonError(TOO_DEEP)
        members += sum(len(each) for each in level if isinstance(each, dict))
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return members


def reason_of(raw: bytes, error: Exception) -> str:
    """Return why msgspec refused a text. Python's `json` knows the position and accepts the extensions."""
    if isinstance(error, RecursionError):
        return TOO_DEEP
    try:
        text = raw.decode()
    except UnicodeDecodeError as fault:
        return f"The body is not UTF-8: see byte {fault.start}"
    if isinstance(error, msgspec.ValidationError):
        return _TOO_MANY_DIGITS if "Integer" in str(error) else "The body is not taken: a number is too large"
    if len(raw) > MAX_EXPLAINED_BYTES:  # the other parser would make all values
        return f"The body is not JSON: {error}"
    return _json_reason(text)


def _json_reason(text: str) -> str:
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as fault:
        return f"The body is not JSON: {fault.msg} at character {fault.pos}"
    except RecursionError:
        return TOO_DEEP
    except JsonError as fault:
        return str(fault)
    except ValueError:  # raised by int() alone
        return _TOO_MANY_DIGITS
    return "The body is not taken: it has half a surrogate pair"


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"The body is not JSON: {name} is no JSON number")
