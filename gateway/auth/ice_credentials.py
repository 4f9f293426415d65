# SPDX-License-Identifier: BSD-2-Clause
"""The ICE servers that one client gets, with credentials for the TURN servers among them.

A TURN server that shares a secret with us takes every user name that begins with the time of its end, with
the HMAC of it as the password (draft-uberti-behave-turn-rest-00 §2.2; coturn: `use-auth-secret`). So a client
gets a password that is good for its session, and the secret stays here.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.config import IceServers


@dataclass(frozen=True, slots=True)
class IceServer:
    """STUN or TURN servers, as WebRTC's RTCIceServer; `username` and `credential` are None for STUN."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None


def ice_servers(settings: Sequence[IceServers], session_id: str, expires_at: float) -> list[IceServer]:
    """Return the servers for the client of a session, which is over at `expires_at` (Unix seconds)."""
    return [_with_credentials(servers, session_id, expires_at) for servers in settings]


def _with_credentials(servers: IceServers, session_id: str, expires_at: float) -> IceServer:
    urls = tuple(servers.urls)
    if servers.shared_secret is None:
        credential = servers.credential
        return IceServer(
            urls, servers.username, None if credential is None else credential.get_secret_value()
        )
    username = f"{int(expires_at)}:{session_id}"
    secret = servers.shared_secret.get_secret_value()
    password = hmac.digest(secret.encode(), username.encode(), "sha1")
    return IceServer(urls, username, base64.b64encode(password).decode("ascii"))
