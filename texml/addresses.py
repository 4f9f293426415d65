# SPDX-License-Identifier: BSD-2-Clause
"""The URLs, numbers and SIP addresses that a document may name."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from texml.errors import DocumentError

MAX_SIP_CHARACTERS = 255

_PRINTABLE_ASCII = re.compile(r"[!-~]+")
E164 = re.compile(r"\+[1-9][0-9]{6,14}")
# Plivo says and takes numbers without the + (docs/reference/carriers.md §4.4)
_CALLER_ID = re.compile(r"\+?[0-9]{3,15}")
_SIP = re.compile(r"sips?:[!#-;=?-~]+")  # no quotes, no angle brackets, no spaces
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def web_url(url: str, what: str) -> str:
    """An absolute http(s) URL."""
    _split(url, what, ("http", "https"))
    return url


def socket_url(url: str, *, plain: bool) -> SplitResult:
    """The stream's URL in its parts. `plain`: whether the carrier also dials `ws://`.

    One that dials only `wss://` may be told `ws://` for the loopback: no carrier can reach that, but a
    simulated one on the same machine can.
    """
    parts = _split(url, "the stream's URL", ("ws", "wss"))
    if parts.scheme == "ws" and not plain and parts.hostname not in _LOOPBACK:
        raise DocumentError("the stream's URL must begin with wss://")
    if "#" in url:
        raise DocumentError("the stream's URL has a fragment")  # RFC 6455 §3
    return parts


def is_sip(to: str) -> bool:
    """Whether the call goes to a SIP address (True) or a number (False); anything else is a DocumentError."""
    if E164.fullmatch(to):
        return False
    if _SIP.fullmatch(to) and len(to) <= MAX_SIP_CHARACTERS:
        return True
    raise DocumentError("the call can only go to a number as in +15559876543, or to a sip: address")


def number_shown(caller_id: str | None) -> str | None:
    """The caller id, where it is a number or none at all."""
    if caller_id is not None and not _CALLER_ID.fullmatch(caller_id):
        raise DocumentError("the caller id is no number")
    return caller_id


def _split(url: str, what: str, schemes: tuple[str, str]) -> SplitResult:
    try:
        parts = urlsplit(url)
        complete = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        complete = False
    if not complete or not _PRINTABLE_ASCII.fullmatch(url):
        raise DocumentError(f"{what} must be an absolute, percent-encoded {schemes[0]} or {schemes[1]} URL")
    return parts
