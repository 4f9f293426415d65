# SPDX-License-Identifier: BSD-2-Clause
"""A carrier's request as its signature covers it, and the checks that several carriers' authentication
shares.

Authentication gets nothing else: no socket, no clock, no settings. It either returns or raises
AuthenticationFailed, whatever the request contains: a malformed request was not sent by a carrier.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from pydantic import SecretStr

REPLAY_WINDOW_S: Final = 300.0
"""The largest difference between a signed timestamp and now, in either direction: Telnyx's tolerance
(docs/reference/carriers.md §9.2).
"""

MAX_HEADER_CHARS: Final = 4096
MAX_URL_CHARS: Final = 16_384
MAX_BODY_BYTES: Final = 1_048_576
MAX_FIELDS: Final = 1000

FORM: Final = "application/x-www-form-urlencoded"
MULTIPART_FORM: Final = "multipart/form-data"
JSON: Final = "application/json"

_PRINTABLE: Final = re.compile(r"[ -~]+")
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORM_TEXT: Final = re.compile(r"[!-~]*")


class AuthenticationFailed(Exception):  # noqa: N818 - the answer "no", not a fault
    """The request is not from the carrier's account.

    `reason` says why, and repeats nothing of the request.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A webhook or an upgrade request, as far as a signature may cover it.

    `urls`: the public URLs that the carrier may have requested, from the configuration
    (`CarrierAccounts.urls`), each with the raw path and query as received. Their scheme is https or wss, or
    http or ws if the public URL is http. `headers`: by lower-case name; the values of a repeated header are
    joined with commas. `address`: the peer's IP address. `now`: Unix seconds.
    """

    method: str
    urls: tuple[str, ...]
    headers: Mapping[str, str]
    body: bytes
    address: str
    now: float

    @property
    def is_upgrade(self) -> bool:
        """Whether the request asks for a WebSocket."""
        upgrades = "websocket" in self.headers.get("upgrade", "").lower()
        return upgrades or any(url.startswith(("wss://", "ws://")) for url in self.urls)


def check_sizes(request: SignedRequest) -> None:
    """Raise AuthenticationFailed if body or URL is too long to be a carrier's.

    Call it before hashing either.
    """
    check_body_size(request.body)
    if any(len(url) > MAX_URL_CHARS for url in request.urls):
        raise AuthenticationFailed(f"the URL has more than {MAX_URL_CHARS} characters")


def check_body_size(body: bytes) -> None:
    """Raise AuthenticationFailed if the body is too long to be a carrier's.

    Call it before hashing the body.
    """
    if len(body) > MAX_BODY_BYTES:
        raise AuthenticationFailed(f"the body has more than {MAX_BODY_BYTES} bytes")


def check_urls(request: SignedRequest) -> None:
    """Raise AuthenticationFailed if the URL that the carrier signed is unknown."""
    if not request.urls:
        raise AuthenticationFailed("no URL to hold the signature against: server.public_url is not set")


def check_only_body(request: SignedRequest) -> None:
    """Raise AuthenticationFailed if a GET has a body."""
    if request.method == "GET" and request.body:
        raise AuthenticationFailed("a GET has a body, which no signature covers")


def check_time(timestamp_s: float, now: float) -> None:
    """Raise AuthenticationFailed if a signed timestamp is more than REPLAY_WINDOW_S from now.

    Unix seconds.
    """
    if not abs(now - timestamp_s) <= REPLAY_WINDOW_S:
        raise AuthenticationFailed(f"the timestamp is more than {REPLAY_WINDOW_S:g} s from now")


def header(request: SignedRequest, name: str) -> str:
    """Return a header's value.

    Raises AuthenticationFailed if it is missing, too long or not printable ASCII.
    """
    return header_text(request.headers.get(name), name)


def header_text(value: str | None, name: str) -> str:
    """Return a header's value, which is None if the header is missing.

    Raises AuthenticationFailed as `header`.
    """
    if not value:
        raise AuthenticationFailed(f"there is no {name} header")
    if len(value) > MAX_HEADER_CHARS:
        raise AuthenticationFailed(f"the {name} header has more than {MAX_HEADER_CHARS} characters")
    if not _PRINTABLE.fullmatch(value):
        raise AuthenticationFailed(f"the {name} header is not printable ASCII")
    return value


def base64_bytes(text: str, name: str) -> bytes:
    """Decode base64 in its canonical form.

    `name` is used in the message. Raises AuthenticationFailed.
    """
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise AuthenticationFailed(f"{name} is not base64") from None
    # Decoding ignores bits of the last character: without this, up to 16 texts would stand for the same
    # bytes.
    if base64.b64encode(decoded).decode() != text:
        raise AuthenticationFailed(f"{name} is not base64")
    return decoded


def hmac_base64(secret: bytes, message: bytes, algorithm: str) -> str:
    """Return a signature in base64. `algorithm`: as `hashlib` names it."""
    return base64.b64encode(hmac.digest(secret, message, algorithm)).decode()


def matches(received: Iterable[str], expected: Iterable[str]) -> bool:
    """Return True if any of the received signatures is one of the expected, comparing in constant time."""
    candidates = [text.encode() for text in expected]
    matched = False
    for text in received:
        for candidate in candidates:
            matched |= hmac.compare_digest(text.encode(), candidate)
    return matched


def secret_bytes(secrets: Sequence[SecretStr]) -> list[bytes]:
    """Return the configured secrets as keys. Raises AuthenticationFailed if there is none."""
    if not secrets:
        raise AuthenticationFailed("no secret of this kind is configured")
    return [secret.get_secret_value().encode() for secret in secrets]


def url_bytes(text: str) -> bytes:
    """Encode a URL to be signed. A text that is not valid Unicode stays different from every URL that is."""
    return text.encode("utf-8", "backslashreplace")


def media_type(content_type: str) -> str:
    """Return the media type in a Content-Type header, in small letters and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def is_form(content_type: str) -> bool:
    """Return True if a Content-Type header names a form."""
    return media_type(content_type) == FORM


def read_form(content_type: str, body: bytes) -> list[tuple[str, str]]:
    """Return the fields of a form in their order, including repeated names and empty values.

    Read a form's content with this function after authentication too: then nothing can be read that was not
    covered by the signature. Raises AuthenticationFailed if the body is not a form, not UTF-8, or malformed.
    """
    if not is_form(content_type):
        raise AuthenticationFailed(f"the body is not {FORM}")
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip(" \t\"'").lower() not in ("utf-8", "utf8"):
            raise AuthenticationFailed("the form is not in UTF-8")
    if not body:
        return []
    try:
        text = body.decode("ascii")
    except UnicodeDecodeError:
        raise AuthenticationFailed(
            "the form is malformed: there are bytes that are not percent-encoded"
        ) from None
    if not _FORM_TEXT.fullmatch(text) or _BROKEN_ESCAPE.search(text):
        raise AuthenticationFailed("the form is malformed")
    try:
        return parse_qsl(
            text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except UnicodeDecodeError:
        raise AuthenticationFailed("the form is not in UTF-8") from None
    except ValueError:
        raise AuthenticationFailed(f"the form is malformed, or has more than {MAX_FIELDS} fields") from None


def names_and_values(fields: Iterable[tuple[str, str]], *, once: bool) -> str:
    """Join sorted names and values without separators: Twilio and Plivo sign a form in this way.

    `once`: whether a value that a name has twice is included once (Twilio).
    """
    return "".join(name + value for name, value in sorted(set(fields) if once else fields))
