# SPDX-License-Identifier: BSD-2-Clause
"""The data that an agent gets about its call: its `body`, base64 of JSON (docs/reference/public-api.md,
"Media sockets"), and custom data. Both reach it in the query of its `/ws`: docs/sockets.md, "What reaches
the agent".

The body travels in the stream URL's query if the carrier delivers one, else in custom parameters: in
several of them if the carrier limits their length (Twilio: 500 characters for name and value,
docs/reference/carriers.md §2.4).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

from gateway.model.reasons import CallEnded, Reasons
from serializers.opening import SERVICE_HOST_PARAMETERS

BODY_PARAMETER: Final = "_patchbay_body"
"""The name of the first part; the others are `_patchbay_body_2` and so on."""

PART_CHARACTERS: Final = 400

MAX_CUSTOM_FIELDS: Final = 50
MAX_CUSTOM_CHARACTERS: Final = 2048
"""Of custom data, percent-encoded. With a body of 4,096 bytes the request line stays below the 8,192 bytes
that common WebSocket servers read.
"""

MAX_PARAMETER_CHARACTERS: Final = 499
"""Of a custom parameter, name and value (docs/reference/carriers.md §2.4)."""
MAX_MEMBERS_CHARACTERS: Final = 1500
"""Of all members of a body that are sent as custom parameters too, as JSON: a document has other content."""

Pairs = tuple[tuple[str, str], ...]
"""Names and values of custom data, in order; a name may come twice."""


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


def encode_custom(custom: Pairs) -> str:
    """Return custom data as the query of a URL.

    Raises CallEnded(too_large) for more than MAX_CUSTOM_CHARACTERS.
    """
    if not custom:
        return ""
    query = urlencode(custom, quote_via=quote)
    if len(query) > MAX_CUSTOM_CHARACTERS:
        detail = f"the query has {len(query)} characters besides ours, {MAX_CUSTOM_CHARACTERS} are allowed"
        raise CallEnded(Reasons.too_large, detail)
    return query


def agent_query(body: str | None, custom: Pairs) -> str:
    """Return the query of the agent's `/ws`: its body, and the custom data of the carrier's socket."""
    parts = [f"body={quote(body, safe='')}"] if body else []
    return "&".join([*parts, *filter(None, (encode_custom(custom),))])


def with_custom(body: str | None, custom: Mapping[str, str | None], max_bytes: int) -> str | None:
    """Return a validated body with custom data added. Keys that the body already has are not replaced.

    A body that is not a JSON object, or would become longer than `max_bytes`, is returned unchanged.
    """
    known = {name: value for name, value in custom.items() if value}
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


def is_ours(parameter: str) -> bool:
    """Return True for a custom parameter that is the gateway's own: it is no custom data."""
    return parameter in SERVICE_HOST_PARAMETERS or parameter.startswith(BODY_PARAMETER)


def members_as_parameters(body: str | None) -> dict[str, str]:
    """Return the members of a validated body as custom parameters, for bots that read those of `start` alone.

    A text stays as it is, everything else becomes JSON. Left out are null, what is the gateway's own or too
    long, and members beyond MAX_MEMBERS_CHARACTERS: they are in the body all the same.
    """
    value = json.loads(base64.b64decode(body)) if body else None
    parameters: dict[str, str] = {}
    left = MAX_MEMBERS_CHARACTERS
    for name, each in value.items() if isinstance(value, dict) else ():
        text = each if isinstance(each, str) else json.dumps(each, separators=(",", ":"))
        size = len(json.dumps([name, text]))
        fits = len(name) + len(text) <= MAX_PARAMETER_CHARACTERS and size <= left
        if each is None or not name or not fits or is_ours(name) or not f"{name}{text}".isprintable():
            continue
        parameters[name] = text
        left -= size
    return parameters


def _name(number: int) -> str:
    return BODY_PARAMETER if number == 1 else f"{BODY_PARAMETER}_{number}"
