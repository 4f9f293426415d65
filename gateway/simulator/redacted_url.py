# SPDX-License-Identifier: BSD-2-Clause
"""URLs as they may be printed: without tokens, keys and passwords. No I/O."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

HIDDEN = "…"

_PRINTED_VALUES = frozenset({"serviceHost", "agent", "org", "region", "sample-rate", "sample_rate", "return"})
_NAME = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*")


def redacted(url: str) -> str:
    """Return the URL without user and password, values of its query but those that name the agent, and what
    may be a token at the end of a media socket's path.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return HIDDEN
    place = (parts.hostname or "") + (f":{port}" if port is not None else "")
    if ":" in (parts.hostname or ""):
        place = f"[{parts.hostname}]" + (f":{port}" if port is not None else "")
    before, media, rest = parts.path.partition("/ws/")
    path = parts.path
    if media:
        path = f"{before}{media}" + "/".join(_segment(each) for each in rest.split("/"))
    query = "&".join(_pair(pair) for pair in parts.query.split("&")) if parts.query else ""
    return f"{parts.scheme}://{place}{path}" + (f"?{query}" if query else "")


def _segment(text: str) -> str:
    return text if len(text) < 64 and _NAME.fullmatch(text) else HIDDEN if text else ""


def _pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    return f"{name}{equals}{value if name in _PRINTED_VALUES else HIDDEN}" if equals else pair
