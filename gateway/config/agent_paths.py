# SPDX-License-Identifier: BSD-2-Clause
"""The paths of an agent that its settings name: that of its media socket, and that of its health check."""

from __future__ import annotations

import re
from typing import Final

DEFAULT_MEDIA_PATH: Final = "/ws"
DEFAULT_HEALTH_PATH: Final = "/readyz"
"""Both as docs/reference/agent-container.md has them."""

DEFAULT_HEALTH_INTERVAL_S: Final = 2.0
MIN_HEALTH_INTERVAL_S: Final = 0.5

PLACEHOLDERS: Final = ("session", "carrier", "call_id")
"""Names that stand in braces in a media path, each for a value of the call."""

PLACEHOLDER: Final = re.compile(r"\{([^{}/]*)\}")

MAX_PATH_CHARACTERS: Final = 1000

_PATH: Final = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
"""The characters of a path (RFC 3986 §3.3)."""


def check_media_path(value: str) -> str:
    """Check the path of an agent's media socket, which may have placeholders."""
    for name in PLACEHOLDER.findall(value):
        if name not in PLACEHOLDERS:
            known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
            raise ValueError(f"has the unknown placeholder {{{name}}}; known are {known}")
    return _check_path(value, PLACEHOLDER.sub("x", value))


def check_health_path(value: str) -> str:
    """Check the path of an agent's health check; "" for none."""
    return _check_path(value, value) if value else value


def check_health_interval(value: float) -> float:
    """Check the seconds between two health checks; 0 for none."""
    if 0 < value < MIN_HEALTH_INTERVAL_S:
        raise ValueError(f"must be 0, for no checks, or at least {MIN_HEALTH_INTERVAL_S:g}")
    return value


def _check_path(value: str, filled: str) -> str:
    """Return `value`, of which `filled` is an example without placeholders."""
    if not value.startswith("/") or value.startswith("//"):
        raise ValueError("must begin with one slash")
    if "?" in value or "#" in value:
        raise ValueError("must be a path alone, without ? or #")
    if len(value) > MAX_PATH_CHARACTERS or not _PATH.fullmatch(filled):
        raise ValueError(
            f"must be a path of at most {MAX_PATH_CHARACTERS} characters that URLs have, others as %XX"
        )
    if any(segment in (".", "..") for segment in filled.split("/")):
        raise ValueError("must have no segments . or ..")
    return value
