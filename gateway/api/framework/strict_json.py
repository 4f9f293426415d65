# SPDX-License-Identifier: BSD-2-Clause
"""JSON as RFC 8259 has it, read and written without the liberties that Python's module takes.

Refused are NaN and Infinity (§6), numbers too large for a float, a name twice in one object (§4), half a
surrogate pair (§8.2), bytes that are not UTF-8 (§8.1), and nesting that would exhaust whoever reads it next.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

MAX_DEPTH: Final = 64
"""Arrays and objects inside each other."""

_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


class BadJson(ValueError):  # noqa: N818 - what it is, not whose mistake
    """The text is not JSON, or more than is taken of it. `str()` says why, without repeating the text."""


def parse(raw: bytes, *, whole_as_int: bool = False) -> Any:
    """The value of a JSON text in UTF-8. Raises BadJson.

    `whole_as_int`: 5.0 is read as the integer that it also is, to JSON Schema at least.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise BadJson(f"The body is not UTF-8: see byte {error.start}") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_whole if whole_as_int else _finite,
        )
    except json.JSONDecodeError as error:
        raise BadJson(f"The body is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise BadJson(_TOO_DEEP) from None
    except BadJson:
        raise
    except ValueError:  # of all that json.loads does, only int() is left to raise it
        raise BadJson("The body is not taken: a number has too many digits") from None
    _check_depth(value)
    if _SURROGATE_ESCAPE.search(raw):
        _check_text(value)
    return value


def dump(value: object) -> bytes:
    """A value as JSON in UTF-8. Raises ValueError for what is none: NaN, Infinity, half a surrogate pair."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


_TOO_DEEP: Final = f"The body is not taken: it is nested deeper than {MAX_DEPTH} levels"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadJson("The body is not taken: an object has the same name twice")
    return found


def _no_constant(name: str) -> Any:
    raise BadJson(f"The body is not JSON: {name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise BadJson("The body is not taken: a number is too large")
    return number


def _whole(text: str) -> float | int:
    number = _finite(text)
    return int(number) if number.is_integer() else number


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    depth = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise BadJson(_TOO_DEEP)
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]


def _check_text(value: Any) -> None:
    try:
        dump(value)
    except UnicodeEncodeError:
        raise BadJson("The body is not taken: it has half a surrogate pair") from None
