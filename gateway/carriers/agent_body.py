# SPDX-License-Identifier: BSD-2-Clause
"""The `body` for an agent on its way through a carrier: base64 of JSON (docs/reference/public-api.md, "Media
sockets").

It travels in the stream URL's query if the carrier delivers one, else in custom parameters: in several of
them if the carrier limits their length (Twilio: 500 characters for name and value, docs/reference/carriers.md
§2.4).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Final

from gateway.model.reasons import CallEnded, Reasons

BODY_PARAMETER: Final = "_patchbay_body"
"""The name of the first part; the others are `_patchbay_body_2` and so on."""

PART_CHARACTERS: Final = 400


def read_body(value: str | None, max_bytes: int) -> str | None:
    """Return a validated body as agents decode it: padded base64 in the standard alphabet (RFC 4648 §4).

    `value`: base64 in the standard or the URL alphabet, padded or not. None and "" are no body: None.
    Raises CallEnded: bad_request, or too_large for more than `max_bytes` of JSON.
    """
    if not value:
        return None
    # A plus sign that was not percent-encoded has been decoded as a space.
    standard = value.replace(" ", "+").replace("-", "+").replace("_", "/")
    unpadded = standard.rstrip("=")
    padded = unpadded + "=" * (-len(unpadded) % 4)
    try:
        if standard not in (unpadded, padded):  # which versions of Python do not judge alike
            raise ValueError
        text = base64.b64decode(padded, validate=True)
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
    """Return a validated body with `numbers` added. Keys that the body already has are not replaced.

    A body that is not a JSON object, or would become longer than `max_bytes`, is returned unchanged.
    """
    known = {name: number for name, number in numbers.items() if number}
    value = {} if body is None else json.loads(base64.b64decode(body))
    if not known or not isinstance(value, dict):
        return body
    text = json.dumps({**known, **value}, separators=(",", ":")).encode()
    return body if len(text) > max_bytes else base64.b64encode(text).decode()


def to_parameters(body: str | None) -> dict[str, str]:
    """Return the body as custom parameters."""
    text = body or ""
    parts = [text[at : at + PART_CHARACTERS] for at in range(0, len(text), PART_CHARACTERS)]
    return {_name(number): part for number, part in enumerate(parts, 1)}


def from_parameters(parameters: Mapping[str, str], max_bytes: int) -> str | None:
    """Return the body from custom parameters, or None if they have none. Raises as `read_body`."""
    parts: list[str] = []
    while (part := parameters.get(_name(len(parts) + 1))) is not None:
        parts.append(part)
    return read_body("".join(parts), max_bytes) if parts else None


def _name(number: int) -> str:
    return BODY_PARAMETER if number == 1 else f"{BODY_PARAMETER}_{number}"
