# SPDX-License-Identifier: BSD-2-Clause
"""Plivo's V3 signature (docs/reference/carriers.md §9.3): HMAC over the URL, the form's fields and a nonce.

By hand, because Plivo's package takes no wss:// URL (docs/reference/carriers.md §4.1). Where the documents
and the package differ, this does what the package does.

V2 is not taken, although Plivo still sends it: it covers neither query nor body, so a V2 signature seen once
would prove any form that is sent to the same path. Every request that has V2 has V3 as well.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl

from gateway.carriers.signatures import (
    MAX_FIELDS,
    AuthenticationFailed,
    SignedRequest,
    check_only_body,
    check_sizes,
    check_urls,
    header,
    hmac_base64,
    matches,
    names_and_values,
    read_form,
    secret_bytes,
    url_bytes,
)
from gateway.config import CarrierAccount

SIGNATURES: Final = ("x-plivo-signature-v3", "x-plivo-signature-ma-v3")
"""Keyed with the token of the (sub)account that owns the number, and with the main account's."""
NONCE: Final = "x-plivo-signature-v3-nonce"
MAX_SIGNATURES: Final = 16

# Without a dot: what is signed is joined with dots, and a nonce with one could take in the end of a field.
_NONCE: Final = re.compile(r"[A-Za-z0-9_+/=-]{1,128}")


def authenticate(account: CarrierAccount, signed: SignedRequest) -> None:
    """Raises AuthenticationFailed unless one of the account's auth tokens signed it."""
    check_sizes(signed)
    check_urls(signed)
    given = _given(signed)
    nonce = header(signed, NONCE)
    if not _NONCE.fullmatch(nonce):
        raise AuthenticationFailed(f"the {NONCE} header is malformed or was sent twice")
    fields = _fields(signed)
    bases = {_base(spelling, fields) for url in signed.urls for spelling in _spellings(url)}
    keys = secret_bytes(account.auth_tokens)
    expected = [hmac_base64(key, base + b"." + nonce.encode(), "sha256") for key in keys for base in bases]
    if not matches(given, expected):
        raise AuthenticationFailed("no signature is this account's for this URL, body and nonce")


def _given(signed: SignedRequest) -> list[str]:
    """A header holds a signature for each active token, parted by commas."""
    found: list[str] = []
    for name in SIGNATURES:
        if signed.headers.get(name):
            found += (part.strip() for part in header(signed, name).split(","))
    if not found:
        raise AuthenticationFailed(f"there is no {SIGNATURES[0]} header")
    if len(found) > MAX_SIGNATURES:
        raise AuthenticationFailed(f"there are more than {MAX_SIGNATURES} signatures")
    return found


def _fields(signed: SignedRequest) -> list[tuple[str, str]]:
    if signed.method not in ("GET", "POST"):
        raise AuthenticationFailed("Plivo asks with GET and POST only")
    check_only_body(signed)
    return read_form(signed.headers.get("content-type", ""), signed.body) if signed.body else []


def _spellings(url: str) -> tuple[str, ...]:
    """For an upgrade Plivo's documents sign wss:// and its Node package https://
    (docs/reference/carriers.md §4.1).
    """
    for socket, plain in (("wss://", "https://"), ("ws://", "http://")):
        if url.startswith(socket):
            return url, plain + url.removeprefix(socket)
    return (url,)


def _base(url: str, fields: list[tuple[str, str]]) -> bytes:
    """What is signed before the nonce. The query is decoded and sorted; a fragment is not signed."""
    address, _, query = url.partition("#")[0].partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise AuthenticationFailed(
            f"the query is not in UTF-8, or has more than {MAX_FIELDS} fields"
        ) from None
    base = address
    if pairs or fields:
        base += "?" + "&".join(f"{name}={value}" for name, value in sorted(pairs))
    if pairs and fields:
        base += "."  # and none where there is no query, whatever the documents say
    return url_bytes(base + names_and_values(fields, once=False))
