# SPDX-License-Identifier: BSD-2-Clause
"""The `body` for an agent on its way through a carrier: base64 of JSON (docs/reference/public-api.md,
"Media sockets").

In a query where the carrier delivers one; else in custom parameters, several of them where one is too short
(Twilio takes 500 characters, name and value: docs/reference/carriers.md §2.4).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Final

from gateway.model.reasons import CallEnded, Reasons

BODY_PARAMETER: Final = "_patchbay_body"
"""The first piece; `_patchbay_body_2` and so on are the others."""

PIECE_CHARACTERS: Final = 400


def read_body(value: str | None, max_bytes: int) -> str | None:
    """The body, checked, in the one spelling of base64 that agents read.

    Raises CallEnded: bad_request, or too_large for more than `max_bytes` of JSON.
    """
    if value is None:
        return None
    try:
        # A plus sign that was not percent-encoded has become a space on the way.
        text = base64.b64decode(value.replace(" ", "+").replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        raise CallEnded(Reasons.bad_request, "body is not base64") from None
    if len(text) > max_bytes:
        raise CallEnded(Reasons.too_large, f"body has {len(text)} bytes of JSON, {max_bytes} are allowed")
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        raise CallEnded(Reasons.bad_request, "body is not base64 of JSON") from None
    return base64.b64encode(text).decode()


def with_numbers(body: str | None, numbers: Mapping[str, str | None], max_bytes: int) -> str | None:
    """A checked body with `numbers` beside what is in it, whose own keys stand.

    One that is no object stays as it is, and so does one that would become too long.
    """
    known = {name: number for name, number in numbers.items() if number}
    said = {} if body is None else json.loads(base64.b64decode(body))
    if not known or not isinstance(said, dict):
        return body
    text = json.dumps({**known, **said}, separators=(",", ":")).encode()
    return body if len(text) > max_bytes else base64.b64encode(text).decode()


def to_parameters(body: str | None) -> dict[str, str]:
    """The body in custom parameters."""
    whole = body or ""
    pieces = [whole[at : at + PIECE_CHARACTERS] for at in range(0, len(whole), PIECE_CHARACTERS)]
    return {_name(number): piece for number, piece in enumerate(pieces, 1)}


def from_parameters(parameters: Mapping[str, str], max_bytes: int) -> str | None:
    """The body out of custom parameters, None where there is none. Raises as `read_body`."""
    pieces: list[str] = []
    while (piece := parameters.get(_name(len(pieces) + 1))) is not None:
        pieces.append(piece)
    return read_body("".join(pieces), max_bytes) if pieces else None


def _name(number: int) -> str:
    return BODY_PARAMETER if number == 1 else f"{BODY_PARAMETER}_{number}"
