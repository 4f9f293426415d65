# SPDX-License-Identifier: BSD-2-Clause
"""Plivo's V3 signature (docs/reference/carriers.md §9.3): HMAC over the URL, the form's fields and a nonce.

It is computed here because Plivo's package accepts no wss:// URL (docs/reference/carriers.md §4.1). Where
Plivo's documents and its package differ, this module follows the package.

V2 signatures are not accepted, although Plivo still sends them: they cover neither query nor body, so one
recorded V2 signature would authenticate any form sent to the same path. Every request with V2 also has V3.
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
"""The first is made with the token of the (sub)account that owns the number, the second with the main
account's.
"""
NONCE: Final = "x-plivo-signature-v3-nonce"
MAX_SIGNATURES: Final = 16

# No dots: the signed text is joined with dots, so a nonce with a dot could contain the end of a field.
_NONCE: Final = re.compile(r"[A-Za-z0-9_+/=-]{1,128}")


def authenticate(account: CarrierAccount, request: SignedRequest) -> None:
    """Raise AuthenticationFailed unless one of the account's auth tokens signed the request."""
    check_sizes(request)
    check_urls(request)
    received = _signatures(request)
    nonce = header(request, NONCE)
    if not _NONCE.fullmatch(nonce):
        raise AuthenticationFailed(f"the {NONCE} header is malformed or was sent twice")
    fields = _form(request)
    bases = {_base(spelling, fields) for url in request.urls for spelling in _spellings(url)}
    keys = secret_bytes(account.auth_tokens)
    expected = [hmac_base64(key, base + b"." + nonce.encode(), "sha256") for key in keys for base in bases]
    if not matches(received, expected):
        raise AuthenticationFailed("no signature is this account's for this URL, body and nonce")


def _signatures(request: SignedRequest) -> list[str]:
    """Return all signatures of the request.

    Each header has one for each active token, separated by commas.
    """
    signatures: list[str] = []
    for name in SIGNATURES:
        if request.headers.get(name):
            signatures += (part.strip() for part in header(request, name).split(","))
    if not signatures:
        raise AuthenticationFailed(f"there is no {SIGNATURES[0]} header")
    if len(signatures) > MAX_SIGNATURES:
        raise AuthenticationFailed(f"there are more than {MAX_SIGNATURES} signatures")
    return signatures


def _form(request: SignedRequest) -> list[tuple[str, str]]:
    if request.method not in ("GET", "POST"):
        raise AuthenticationFailed("Plivo asks with GET and POST only")
    check_only_body(request)
    return read_form(request.headers.get("content-type", ""), request.body) if request.body else []


def _spellings(url: str) -> tuple[str, ...]:
    """Return the URL in each form that may have been signed.

    For an upgrade, Plivo's documents sign wss:// and its Node package signs https://
    (docs/reference/carriers.md §4.1).
    """
    for socket, plain in (("wss://", "https://"), ("ws://", "http://")):
        if url.startswith(socket):
            return url, plain + url.removeprefix(socket)
    return (url,)


def _base(url: str, fields: list[tuple[str, str]]) -> bytes:
    """Return the signed text up to the nonce. The query is decoded and sorted; a fragment is not signed."""
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
        base += "."  # the documents have one without a query too; the package has not
    return url_bytes(base + names_and_values(fields, once=False))
