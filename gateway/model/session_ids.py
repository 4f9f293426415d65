# SPDX-License-Identifier: BSD-2-Clause
"""The two spellings of a session's id: a UUID (RFC 9562), and `sess_` with the same 128 bits as a ULID.

The gateway makes, stores, logs and passes on UUIDs alone. A ULID (the specification ulid/spec) is 26 digits
of Crockford's base 32, the first of which is 0 to 7. Of a random UUID its time means nothing.
"""

from __future__ import annotations

import re
import uuid
from typing import Final

PREFIX: Final = "sess_"

_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES: Final = {digit: value for value, digit in enumerate(_DIGITS)} | {"O": 0, "I": 1, "L": 1}
"""Crockford's base 32 reads the letters that look like digits as those."""

_ULID_DIGITS: Final = 26
_BITS: Final = 128
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


def canonical_session_id(given: str) -> str:
    """Return a session's id as it is stored, from either spelling, in small or capital letters.

    Everything else is returned as it is: no session has it.
    """
    if _UUID.fullmatch(given):
        return given.lower()
    digits = given.removeprefix(PREFIX)
    if digits == given or len(digits) != _ULID_DIGITS or not digits.isascii():
        return given
    number = 0
    for digit in digits.upper():
        value = _VALUES.get(digit)
        if value is None:
            return given
        number = number << 5 | value
    return given if number >> _BITS else str(uuid.UUID(int=number))


def ulid_of(session_id: str) -> str | None:
    """Return a session's id as `sess_` and a ULID; None for an id that is no UUID."""
    if not _UUID.fullmatch(session_id):
        return None
    number = uuid.UUID(session_id).int
    return PREFIX + "".join(_DIGITS[number >> 5 * place & 31] for place in reversed(range(_ULID_DIGITS)))
