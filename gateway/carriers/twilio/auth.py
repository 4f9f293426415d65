# SPDX-License-Identifier: BSD-2-Clause
"""Twilio's signature (docs/reference/carriers.md §9.1): HMAC over the URL and the form's fields.

URL, names and values are joined without separators, so the signature does not cover where one of them ends;
docs/proofs.md says what follows from that.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote_from_bytes, unquote_plus, unquote_to_bytes

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
_MAX_RESPELLED_CHARS: Final = 4096
"""Characters of the longest query that is spelt in other ways; Twilio's own has less than half of it."""
_ENCODINGS: Final = (
    ("-_.!~*'()", "%20"),
    ("-_.!~*'()", "+"),
    ("-_.!~*'()@:", "%20"),
    ("-_.!~*'()@:", "+"),
    ("-_.*", "+"),
    ("-_.", "+"),
    ("-_.~", "+"),
    ("-_.~", "%20"),
)
"""Characters that an encoder leaves as they are beside letters and digits, and how it writes a space: the
`querystring` of Twilio's Node package, the same with the `@` and `:` that Twilio signs unescaped, HTML forms,
the same with `*` escaped as PHP does it, and RFC 3986 §2.3.
"""
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_USUAL_PORTS: Final = {"https": "443", "wss": "443", "http": "80", "ws": "80"}


def authenticate(account: CarrierAccount, request: SignedRequest) -> None:
    """Raise AuthenticationFailed unless an auth token or signing key of the account signed the request."""
    check_sizes(request)
    check_urls(request)
    signature = header(request, SIGNATURE)
    algorithm, keys = _keys(account, request)
    fields = _signed_fields(request).encode()

    def verifies(urls: Iterable[str]) -> bool:
        spellings = {spelling for url in urls for spelling in _spellings(url)}
        expected = [hmac_base64(key, url_bytes(url) + fields, algorithm) for key in keys for url in spellings]
        return matches([signature], expected)

    # The other spellings are made only if the query as received does not verify, which is rare.
    if verifies(request.urls) or verifies(each for url in request.urls for each in respelled_queries(url)):
        return
    raise AuthenticationFailed("the signature is not this account's for this URL and body")


def _keys(account: CarrierAccount, request: SignedRequest) -> tuple[str, list[bytes]]:
    """Return algorithm and keys.

    Twilio signs with an auth token and SHA-1, or with a shared key and SHA-256.
    """
    named = []
    if request.headers.get(SETTINGS):
        for part in header(request, SETTINGS).split(","):
            name, _, value = part.partition("=")
            if name.strip() == "algorithm":
                named.append(value.strip().upper())
    match named:
        case [] | ["HMAC_SHA1"]:
            return "sha1", secret_bytes(account.auth_tokens)
        case ["HMAC_SHA256"]:
            return "sha256", secret_bytes(account.signing_keys)
    raise AuthenticationFailed(f"the {SETTINGS} header names no algorithm that is known")


def _signed_fields(request: SignedRequest) -> str:
    """Return the text that is signed after the URL.

    Raises AuthenticationFailed if it would not cover the body.
    """
    if request.method not in ("GET", "POST"):
        raise AuthenticationFailed("Twilio asks with GET and POST only")
    check_only_body(request)
    content_type = request.headers.get("content-type", "")
    if request.body and is_form(content_type):
        return names_and_values(read_form(content_type, request.body), once=True)
    # The hash is compared with an empty body too: otherwise a signed body could be removed.
    hashes = _body_hashes(request.urls[0])
    if hashes:
        digest = hashlib.sha256(request.body).hexdigest()
        if len(hashes) > 1 or not hmac.compare_digest(hashes[0].encode("utf-8", "replace"), digest.encode()):
            raise AuthenticationFailed(f"the body is not the one of {BODY_HASH}")
    elif request.body:
        raise AuthenticationFailed(f"the body is neither a form nor covered by {BODY_HASH}")
    return ""


def _body_hashes(url: str) -> list[str]:
    query = url.partition("#")[0].partition("?")[2]
    pairs = (pair.partition("=") for pair in query.split("&"))
    return [value for name, _, value in pairs if unquote_plus(name) == BODY_HASH]


def _spellings(url: str) -> tuple[str, ...]:
    """Return the URL in each form that may have been signed.

    Twilio signs it with or without the port (docs/reference/carriers.md §9.1). Whether it signs a socket's
    URL with a slash at the end is not verified (docs/reference/carriers.md §11); both are accepted, since
    /ws/… is the same resource with and without it.
    """
    parts = _URL.fullmatch(url)
    if parts is None:
        return (url,)
    scheme, host, port, rest = parts.groups(default="")
    ends = (rest, f"{rest}/") if scheme in ("wss", "ws") and "?" not in rest else (rest,)
    places = (host, f"{host}:{port or _USUAL_PORTS[scheme]}")
    return tuple(f"{scheme}://{place}{end}" for place in places for end in ends)


@functools.lru_cache(maxsize=8)  # a request whose account is not known is checked against every account
def respelled_queries(url: str) -> frozenset[str]:
    """Return the URL with its query percent-encoded in other ways, at most 18; every one decodes to the same.

    Twilio signs some characters of a query unescaped, such as an apostrophe, and sends them escaped, and a
    proxy may change escapes (docs/reference/carriers.md §9.1). Names, values and their order stay, as read
    from a form: a plus sign is a space. Return nothing for a query that is too long or not ASCII.
    """
    address, mark, query = url.partition("?")
    if not query or len(query) > _MAX_RESPELLED_CHARS or not query.isascii() or "#" in url:
        return frozenset()
    tokens = re.split("([&=])", query.replace("+", " "))
    decoded = [unquote_to_bytes(token) for token in tokens]
    queries = set(_apostrophes(query))
    for safe, space in _ENCODINGS:
        upper = "".join(_encoded(decoded, safe, space))
        queries |= {upper, _ESCAPE.sub(lambda escape: escape[0].lower(), upper)}
    return frozenset(f"{address}{mark}{each}" for each in queries - {query})


def _apostrophes(query: str) -> tuple[str, str]:
    """Return the query with every apostrophe escaped and with none escaped, and the rest as received."""
    return query.replace("'", "%27"), query.replace("%27", "'")


def _encoded(tokens: list[bytes], safe: str, space: str) -> Iterator[str]:
    """Yield names, values and the separators between them: at each odd place there is a separator."""
    for index, token in enumerate(tokens):
        if index % 2:
            yield token.decode()
        else:
            text = quote_from_bytes(token, safe + " ").replace(" ", space)
            yield text if "~" in safe else text.replace("~", "%7E")  # Python never escapes it
