# SPDX-License-Identifier: BSD-2-Clause
"""Between Python's values and the rows of the SQLite file."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from gateway.errors import Side
from gateway.sessions.lifecycle import State
from gateway.sessions.session import SessionRecord

_NAMES: Final = ["id" if field.name == "session_id" else field.name for field in fields(SessionRecord)]
_STATE: Final = _NAMES.index("state")
_SIDE: Final = _NAMES.index("side")

COLUMNS: Final = ", ".join(_NAMES)
"""The columns of a session, as `record` takes them."""

BRIEF_COLUMNS: Final = COLUMNS.replace("transcript, results", "NULL, NULL")
"""The same without what may be a megabyte each."""


def record(row: tuple[Any, ...]) -> SessionRecord:
    """The record of a row of COLUMNS."""
    values = list(row)
    values[_STATE] = State(values[_STATE])
    if values[_SIDE] is not None:
        values[_SIDE] = Side(values[_SIDE])
    return SessionRecord(*values)


def text(value: str | None) -> str | None:
    """What the file can hold: JSON lets half a surrogate pair into a carrier's text, UTF-8 does not."""
    if value is None or value.isascii():
        return value
    return value.encode("utf-8", "replace").decode()
