# SPDX-License-Identifier: BSD-2-Clause
"""A request as a carrier may have signed it: what stands in it, and the public URL that we answer under.

The URL is made of the configuration and of the raw path and query, never of `Host` or `X-Forwarded-*`
(carriers.md §9, "Common rule").
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request

from gateway.carriers.accounts import Accounts
from gateway.carriers.proof import Signed
from gateway.media.upgrade import Upgrade


def signed_upgrade(accounts: Accounts, upgrade: Upgrade, now: float) -> Signed:
    """An upgrade that is not answered yet. `now`: Unix seconds."""
    assert upgrade.request is not None
    return Signed(
        method="GET",
        urls=accounts.urls(upgrade.request.target, "wss"),
        headers=_joined(upgrade.request.headers),
        body=b"",
        address=upgrade.address,
        now=now,
    )


def signed_request(accounts: Accounts, request: Request, body: bytes, now: float) -> Signed:
    """A webhook. `body`: as it came. `now`: Unix seconds."""
    path = request.scope["raw_path"].decode("latin-1")
    query = request.scope["query_string"].decode("latin-1")
    return Signed(
        method=request.method,
        urls=accounts.urls(f"{path}?{query}" if query else path, "https"),
        headers=_joined(request.headers.items()),
        body=body,
        address=request.client.host if request.client else "",
        now=now,
    )


def _joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Under lower-case names; the values of a repeated one joined with commas."""
    found: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        found[key] = f"{found[key]},{value}" if key in found else value
    return found
