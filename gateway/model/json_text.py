# SPDX-License-Identifier: BSD-2-Clause
"""Writing JSON without the liberties that Python's module takes (RFC 8259)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JsonText:
    """A JSON value as its text in UTF-8, which was checked and never became Python's values.

    A large value passes through the gateway in this form: making its values would take the event loop from
    the calls.
    """

    raw: bytes


def dump(value: object) -> bytes:
    """Return a value as JSON in UTF-8, without spaces; a JsonText as it is.

    Raises ValueError for what JSON cannot express: NaN, Infinity, half a surrogate pair.
    """
    if isinstance(value, JsonText):
        return value.raw
    # msgspec would write NaN as null.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def dump_object(members: Mapping[str, object]) -> JsonText:
    """Return an object, some of whose values may be JsonText. Raises ValueError as `dump`."""
    return JsonText(b"{%s}" % b",".join(b"%s:%s" % (dump(name), dump(members[name])) for name in members))


def dump_array(values: Iterable[object]) -> JsonText:
    """Return an array, some of whose values may be JsonText. Raises ValueError as `dump`."""
    return JsonText(b"[%s]" % b",".join(map(dump, values)))
