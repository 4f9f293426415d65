# SPDX-License-Identifier: BSD-2-Clause
"""Where a client's media socket goes (docs/reference/public-api.md, "Start", "Media sockets")."""

from __future__ import annotations

from urllib.parse import urlsplit

from gateway.config import AgentSettings, Settings
from gateway.model.addresses import host_in_region


def media_url(settings: Settings, agent: AgentSettings, address: tuple[str, int] | None) -> str:
    """`wss://{region}.{host}/ws/generic/{agent}.{org}`.

    `address`: host and port of this gateway as the caller reached it, which the socket goes to where no
    public URL is set. An address that is no name has no regions in front of it.
    """
    path = f"/ws/generic/{agent.service_host}"
    if settings.server.public_url is None:
        host, port = address or (settings.server.host, settings.server.port)
        return f"ws://{f'[{host}]' if ':' in host else host}:{port}{path}"
    parts = urlsplit(settings.server.public_url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    regions = {region.code for region in settings.regions}
    return f"{scheme}://{host_in_region(parts.netloc, agent.region, regions)}{parts.path}{path}"
