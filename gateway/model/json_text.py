# SPDX-License-Identifier: BSD-2-Clause
"""Writing JSON without the liberties that Python's module takes (RFC 8259)."""

from __future__ import annotations

import json


def dump(value: object) -> bytes:
    """Return a value as JSON in UTF-8, without spaces.

    Raises ValueError for what JSON cannot express: NaN, Infinity, half a surrogate pair.
    """
    # msgspec would write NaN as null.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
