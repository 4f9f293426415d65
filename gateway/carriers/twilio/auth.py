# SPDX-License-Identifier: BSD-2-Clause
"""Twilio's signature (docs/reference/carriers.md §9.1): HMAC over the URL and the form's fields.

It is one text without separators, so it does not say where the URL ends and the fields begin, nor where a
name ends; docs/proofs.md says what follows from that.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final
from urllib.parse import unquote_plus

from gateway.carriers.signatures import (
    AuthenticationFailed,
    SignedRequest,
    check_only_body,
    check_sizes,
    check_urls,
    header,
    hmac_base64,
    is_form,
    matches,
    names_and_values,
    read_form,
    secret_bytes,
    url_bytes,
)
from gateway.config import CarrierAccount

SIGNATURE: Final = "x-twilio-signature"
SETTINGS: Final = "x-twilio-webhooks-signature-settings"
BODY_HASH: Final = "bodySHA256"

_URL: Final = re.compile(
    r"(https|http|wss|ws)://(\[[^\]]*\]|[^/?#:]*)(?::([0-9]{1,5}))?([/?#].*)?", re.DOTALL
)
_USUAL_PORTS: Final = {"https": "443", "wss": "443", "http": "80", "ws": "80"}


def authenticate(account: CarrierAccount, signed: SignedRequest) -> None:
    """Raises AuthenticationFailed unless one of the account's auth tokens or signing keys signed it."""
    check_sizes(signed)
    check_urls(signed)
    given = header(signed, SIGNATURE)
    algorithm, keys = _keys(account, signed)
    fields = _fields(signed).encode()
    urls = {spelling for url in signed.urls for spelling in _spellings(url)}
    expected = [hmac_base64(key, url_bytes(url) + fields, algorithm) for key in keys for url in urls]
    if not matches([given], expected):
        raise AuthenticationFailed("the signature is not this account's for this URL and body")


def _keys(account: CarrierAccount, signed: SignedRequest) -> tuple[str, list[bytes]]:
    """What Twilio says it signed with. An auth token signs with SHA-1 alone, a shared key with SHA-256."""
    named = []
    if signed.headers.get(SETTINGS):
        for part in header(signed, SETTINGS).split(","):
            name, _, value = part.partition("=")
            if name.strip() == "algorithm":
                named.append(value.strip().upper())
    match named:
        case [] | ["HMAC_SHA1"]:
            return "sha1", secret_bytes(account.auth_tokens)
        case ["HMAC_SHA256"]:
            return "sha256", secret_bytes(account.signing_keys)
    raise AuthenticationFailed(f"the {SETTINGS} header names no algorithm that is known")


def _fields(signed: SignedRequest) -> str:
    """What is signed behind the URL. Raises AuthenticationFailed where that would leave a body uncovered."""
    if signed.method not in ("GET", "POST"):
        raise AuthenticationFailed("Twilio asks with GET and POST only")
    check_only_body(signed)
    content_type = signed.headers.get("content-type", "")
    if signed.body and is_form(content_type):
        return names_and_values(read_form(content_type, signed.body), once=True)
    # Held against an empty body too: else a signed body could be taken away.
    hashes = _body_hashes(signed.urls[0])
    if hashes:
        digest = hashlib.sha256(signed.body).hexdigest()
        if len(hashes) > 1 or not hmac.compare_digest(hashes[0].encode("utf-8", "replace"), digest.encode()):
            raise AuthenticationFailed(f"the body is not the one of {BODY_HASH}")
    elif signed.body:
        raise AuthenticationFailed(f"the body is neither a form nor covered by {BODY_HASH}")
    return ""


def _body_hashes(url: str) -> list[str]:
    query = url.partition("#")[0].partition("?")[2]
    pairs = (pair.partition("=") for pair in query.split("&"))
    return [value for name, _, value in pairs if unquote_plus(name) == BODY_HASH]


def _spellings(url: str) -> tuple[str, ...]:
    """With its port and without: Twilio signs either (docs/reference/carriers.md §9.1). A port left out is
    the usual one.

    For a socket also with a slash at the end, which nobody has verified either way
    (docs/reference/carriers.md §11) and which makes no difference here: /ws/… is the same place with and
    without.
    """
    parts = _URL.fullmatch(url)
    if parts is None:
        return (url,)
    scheme, host, port, rest = parts.groups(default="")
    ends = (rest, f"{rest}/") if scheme in ("wss", "ws") else (rest,)
    places = (host, f"{host}:{port or _USUAL_PORTS[scheme]}")
    return tuple(f"{scheme}://{place}{end}" for place in places for end in ends)
