# SPDX-License-Identifier: BSD-2-Clause
"""Validation of the URLs, telephone numbers and SIP addresses in a document. Each raises DocumentError."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from texml.document import E164, DocumentError

MAX_SIP_CHARACTERS = 255

_PRINTABLE_ASCII = re.compile(r"[!-~]+")
# Plivo writes and accepts numbers without the + (docs/reference/carriers.md §4.4).
_CALLER_ID = re.compile(r"\+?[0-9]{3,15}")
_SIP = re.compile(r"sips?:[!#-;=?-~]+")  # no quotes, no angle brackets, no spaces
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def web_url(url: str, label: str) -> str:
    """Return the URL if it is an absolute http(s) URL. `label` names it in the message."""
    _split(url, label, ("http", "https"))
    return url


def socket_url(url: str, *, allow_plain: bool) -> SplitResult:
    """Return the parts of a stream's URL. `allow_plain`: whether the carrier dials `ws://` too.

    `ws://` to a loopback address is always allowed: no carrier can reach it, but a simulated one on the same
    machine can.
    """
    parts = _split(url, "the stream's URL", ("ws", "wss"))
    if parts.scheme == "ws" and not allow_plain and parts.hostname not in _LOOPBACK:
        raise DocumentError("the stream's URL must begin with wss://")
    if "#" in url:
        raise DocumentError("the stream's URL has a fragment")  # RFC 6455 §3
    return parts


def is_sip(target: str) -> bool:
    """Return True for a SIP address and False for a number in E.164 form.

    Anything else is a DocumentError.
    """
    if E164.fullmatch(target):
        return False
    if _SIP.fullmatch(target) and len(target) <= MAX_SIP_CHARACTERS:
        return True
    raise DocumentError("the call can only go to a number as in +15559876543, or to a sip: address")


def checked_caller_id(caller_id: str | None) -> str | None:
    """Return the caller id if it is a number, or None."""
    if caller_id is not None and not _CALLER_ID.fullmatch(caller_id):
        raise DocumentError("the caller id is no number")
    return caller_id


def _split(url: str, label: str, schemes: tuple[str, str]) -> SplitResult:
    try:
        parts = urlsplit(url)
        complete = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        complete = False
    if not complete or not _PRINTABLE_ASCII.fullmatch(url):
        raise DocumentError(f"{label} must be an absolute, percent-encoded {schemes[0]} or {schemes[1]} URL")
    return parts
