# SPDX-License-Identifier: BSD-2-Clause
"""Access without a key, a signature or a token, as the settings give it to whoever reaches the port.

`serve` and `check` name it, so that nobody opens it without knowing. The answers of all routes to a client
that has nothing are in docs/security.md. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.config.settings import Settings
from gateway.model.addresses import is_loopback

MAX_NAMED: Final = 5
"""The agents that one sentence names; the others are counted."""


def is_exposed(settings: Settings) -> bool:
    """Return True if the port is reached from other machines, by itself or through a proxy."""
    server = settings.server
    return not is_loopback(server.host) or bool(server.trusted_proxies) or server.has_public_host


def unauthenticated_access(settings: Settings) -> list[tuple[str, str]]:
    """Return what needs no authentication, and who may then do what, in words.

    The media sockets of a gateway that only its own machine reaches are not among it.
    """
    access = [*_media_sockets(settings)] if is_exposed(settings) else []
    return [*access, *_webhooks(settings), *_callbacks(settings)]


def _media_sockets(settings: Settings) -> Iterator[tuple[str, str]]:
    agents = [agent.service_host for agent in settings.agents if agent.is_open]
    if agents:
        named = ", ".join(agents[:MAX_NAMED])
        named += f" and {len(agents) - MAX_NAMED} more" if len(agents) > MAX_NAMED else ""
        yield (
            "media sockets",
            f"whoever reaches this gateway can call {named}: their websocket_auth is none",
        )


def _webhooks(settings: Settings) -> Iterator[tuple[str, str]]:
    for organization in settings.organizations:
        if organization.daily is not None and organization.daily.allow_unsigned:
            yield (
                "dial-in webhook",
                f"whoever reaches this gateway can start sessions of {organization.name}'s agents, in rooms "
                "at Daily: [organizations.daily] allow_unsigned is true",
            )
        if organization.whatsapp is not None and organization.whatsapp.allow_unsigned:
            yield (
                "WhatsApp webhook",
                f"whoever reaches this gateway can start sessions of {organization.name}'s agents: "
                "[organizations.whatsapp] allow_unsigned is true",
            )


def _callbacks(settings: Settings) -> Iterator[tuple[str, str]]:
    for organization in settings.organizations:
        carriers = {account.carrier for account in organization.carriers}
        carriers -= {account.carrier for account in organization.carriers if account.can_authenticate}
        for carrier in sorted(carriers) if organization.dial_prefixes else ():
            yield (
                "status callbacks",
                f"whoever knows a session's id can report what became of {organization.name}'s calls out "
                f"with {carrier}: its account there has nothing that authenticates a request",
            )
