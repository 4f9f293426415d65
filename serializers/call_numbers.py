# SPDX-License-Identifier: BSD-2-Clause
"""The numbers of caller and callee, where a carrier's `start` has none: in custom parameters, by any of the
names that are in use.

Our documents and Pipecat's bots write `from_number` and `to_number` (docs/reference/carriers.md §8.1), which
count first, whatever they hold. The other names may also be custom data of another kind, so a value counts
only if it is written as a telephone number or address is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from serializers.events import Start

MAX_NUMBER_CHARACTERS: Final = 256
"""Characters of a number in `start`, which may be a SIP address."""

_OF_CALLER: Final = ("from_number", "from", "From", "caller")
_OF_CALLEE: Final = ("to_number", "to", "To", "callee")
"""In order of precedence; the first is our own."""

_NUMBER: Final = re.compile(r"\s*(?:\+?[0-9(][0-9 ().\-/]*|(?:sips?|tel|client):[!-~]+)\s*", re.IGNORECASE)


def numbers_in(parameters: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the caller's and the called number of custom parameters; None for one that they do not have."""
    return _number(parameters, _OF_CALLER), _number(parameters, _OF_CALLEE)


def with_numbers(start: Start, parameters: Mapping[str, str]) -> Start:
    """Return `start` with the numbers that it lacks and `parameters` have: those of the socket's URL."""
    if start.from_number and start.to_number:
        return start
    from_number, to_number = numbers_in(parameters)
    if not (from_number or to_number):
        return start
    return replace(
        start, from_number=start.from_number or from_number, to_number=start.to_number or to_number
    )


def _number(parameters: Mapping[str, str], names: Sequence[str]) -> str | None:
    own, *others = names
    if value := parameters.get(own):
        return value
    found = (parameters.get(name, "") for name in others)
    return next((value.strip() for value in found if _is_number(value)), None)


def _is_number(value: str) -> bool:
    return len(value) <= MAX_NUMBER_CHARACTERS and _NUMBER.fullmatch(value) is not None
