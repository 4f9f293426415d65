# SPDX-License-Identifier: BSD-2-Clause
"""What came from a carrier, and the readings and comparisons that several proofs share.

A proof gets nothing but this: no socket, no clock, no configuration. Whatever comes in, its only answer but
"yes" is AuthenticationFailed: what is malformed was not sent by a carrier.
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
"""How far a signed timestamp may be from now, either way: Telnyx's tolerance (docs/reference/carriers.md
§9.2).
"""

MAX_HEADER_CHARS: Final = 4096
MAX_URL_CHARS: Final = 16_384
MAX_BODY_BYTES: Final = 1_048_576
MAX_FIELDS: Final = 1000

FORM: Final = "application/x-www-form-urlencoded"

_PRINTABLE: Final = re.compile(r"[ -~]+")
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORM_TEXT: Final = re.compile(r"[!-~]*")


class AuthenticationFailed(Exception):  # noqa: N818 - the answer "no", not a fault
    """It did not come from the carrier's account. `reason`: why, in words that repeat nothing of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A webhook or an upgrade request, as far as a signature may cover it.

    `urls`: the public URLs that the carrier may have dialled, from the configuration (`Accounts.urls`), each
    with the raw path and query as they came; https or wss, http or ws where the public URL is http.
    `headers`: under lower-case names; the values of a repeated one joined with commas.
    `address`: the peer's address. `now`: Unix seconds.
    """

    method: str
    urls: tuple[str, ...]
    headers: Mapping[str, str]
    body: bytes
    address: str
    now: float

    @property
    def is_upgrade(self) -> bool:
        """Whether a WebSocket is asked for."""
        asks = "websocket" in self.headers.get("upgrade", "").lower()
        return asks or any(url.startswith(("wss://", "ws://")) for url in self.urls)


def check_sizes(signed: SignedRequest) -> None:
    """Raises AuthenticationFailed where there is more than anybody would sign, before it is hashed."""
    if len(signed.body) > MAX_BODY_BYTES:
        raise AuthenticationFailed(f"the body has more than {MAX_BODY_BYTES} bytes")
    if any(len(url) > MAX_URL_CHARS for url in signed.urls):
        raise AuthenticationFailed(f"the URL has more than {MAX_URL_CHARS} characters")


def check_urls(signed: SignedRequest) -> None:
    """Raises AuthenticationFailed where it is not known under which URL the carrier reaches the gateway."""
    if not signed.urls:
        raise AuthenticationFailed("no URL to hold the signature against: server.public_url is not set")


def check_only_body(signed: SignedRequest) -> None:
    """Raises AuthenticationFailed for a body where there can be none."""
    if signed.method == "GET" and signed.body:
        raise AuthenticationFailed("a GET has a body, which no signature covers")


def header(signed: SignedRequest, name: str) -> str:
    """A header's value. Raises AuthenticationFailed where it is missing, empty, too long or not printable
    ASCII.
    """
    return header_text(signed.headers.get(name), name)


def header_text(value: str | None, name: str) -> str:
    """The same for a value that was already taken out of the headers."""
    if not value:
        raise AuthenticationFailed(f"there is no {name} header")
    if len(value) > MAX_HEADER_CHARS:
        raise AuthenticationFailed(f"the {name} header has more than {MAX_HEADER_CHARS} characters")
    if not _PRINTABLE.fullmatch(value):
        raise AuthenticationFailed(f"the {name} header is not printable ASCII")
    return value


def base64_bytes(text: str, name: str) -> bytes:
    """Bytes from base64, in its one spelling. Raises AuthenticationFailed; `name` is what the text is."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise AuthenticationFailed(f"{name} is not base64") from None
    # The last character has bits that decoding ignores: without this there would be up to 16 spellings.
    if base64.b64encode(found).decode() != text:
        raise AuthenticationFailed(f"{name} is not base64")
    return found


def hmac_base64(secret: bytes, message: bytes, algorithm: str) -> str:
    """A signature as most carriers write it. `algorithm`: as `hashlib` names it."""
    return base64.b64encode(hmac.digest(secret, message, algorithm)).decode()


def matches(given: Iterable[str], expected: Iterable[str]) -> bool:
    """Whether any of the given is one of the expected; takes as long wherever they differ."""
    wanted = [text.encode() for text in expected]
    found = False
    for text in given:
        for want in wanted:
            found |= hmac.compare_digest(text.encode(), want)
    return found


def secret_bytes(secrets: Sequence[SecretStr]) -> list[bytes]:
    """The configured secrets as keys. Raises AuthenticationFailed where there is none."""
    if not secrets:
        raise AuthenticationFailed("no secret of this kind is configured")
    return [secret.get_secret_value().encode() for secret in secrets]


def url_bytes(text: str) -> bytes:
    """A URL as it is signed. One that is no text stays unlike any that is."""
    return text.encode("utf-8", "backslashreplace")


def is_form(content_type: str) -> bool:
    """Whether a Content-Type header says form."""
    return content_type.partition(";")[0].strip().lower() == FORM


def read_form(content_type: str, body: bytes) -> list[tuple[str, str]]:
    """The fields of a form as they came: in order, repeated ones and empty values kept.

    Whoever uses a proven form reads it with this too, so that nothing is read that was not proven. Raises
    AuthenticationFailed where it is no form, is not UTF-8, or is malformed.
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
    """Sorted names, each with its sorted values, nothing between: what Twilio and Plivo sign of a form.

    `once`: a value that one name has twice counts once (Twilio).
    """
    return "".join(name + value for name, value in sorted(set(fields) if once else fields))
