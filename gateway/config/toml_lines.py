# SPDX-License-Identifier: BSD-2-Clause
"""The line of a TOML file on which a value stands, which a TOML parser does not tell."""

from __future__ import annotations

import re

from gateway.config.consistency import Location

_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_PATH = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_PATH})\s*\]\]?\s*(?:#.*)?")
_ENTRY = re.compile(rf"\s*({_PATH})\s*=")


def lines(text: str) -> dict[Location, int]:
    """The first line of each table, item of an array of tables, and key of a valid TOML text, from 1.

    Values inside inline tables and arrays are not told apart: they are on their key's line or below it.
    """
    found: dict[Location, int] = {}
    counts: dict[Location, int] = {}
    table: Location = ()
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.fullmatch(line):
            table = _resolve(_split(header[2]), counts)
            if header[1] == "[[":
                counts[table] = counts.get(table, 0) + 1
                found.setdefault(table, number)
                table = (*table, counts[table] - 1)
            found.setdefault(table, number)
        elif entry := _ENTRY.match(line):
            found.setdefault((*table, *_split(entry[1])), number)
    return found


def line_of(location: Location, found: dict[Location, int]) -> int | None:
    """The line of the value, or of the nearest thing around it; None if the file says nothing of it."""
    for length in range(len(location), 0, -1):
        if location[:length] in found:
            return found[location[:length]]
    return None


def _split(path: str) -> list[str]:
    return [key.strip("\"'") for key in re.findall(_KEY, path)]


def _resolve(keys: list[str], counts: dict[Location, int]) -> Location:
    """The path a header means: a name of an array of tables on the way stands for its last item."""
    location: Location = ()
    for depth, key in enumerate(keys):
        location = (*location, key)
        if depth < len(keys) - 1 and location in counts:
            location = (*location, counts[location] - 1)
    return location
