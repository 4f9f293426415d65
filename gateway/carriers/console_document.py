# SPDX-License-Identifier: BSD-2-Clause
"""The document that an operator pastes into a carrier's console: what `patchbay xml` prints.

It is the one that `/xml/CARRIER` answers with, but without a call token, because a token admits one call
only.
"""

from __future__ import annotations

from gateway.carriers.accounts import CarrierAccounts
from gateway.carriers.registry import CARRIERS
from gateway.carriers.stream_documents import IncomingCall, StreamTarget, stream_document
from gateway.config import Settings


def console_document(settings: Settings, carrier: str, service_host: str) -> str:
    """Return the document that connects a carrier's calls to the agent `service_host`.

    Raises ValueError, with a sentence, if the agent is not configured, if its calls need a token, or if the
    carrier's document cannot be written: no public URL is set, or the carrier does not accept it.
    """
    agent = settings.find_agent(service_host)
    if agent is None:
        raise ValueError(f"no agent {service_host} is configured")
    if agent.websocket_auth == "token":
        raise ValueError(f"{service_host} wants a token with each call: point the carrier at /xml/{carrier}")
    accounts = CarrierAccounts(settings)
    if agent.websocket_auth == "required" and not accounts.requires_authentication(
        agent.organization, carrier
    ):
        raise ValueError(
            f"{service_host} wants authenticated calls, and {agent.organization} has no account with "
            f"{carrier} that could authenticate them"
        )
    if accounts.requires_authentication(agent.organization, carrier):
        # Without a token a socket is authenticated by its signature or by its address.
        by_address = any(account.allow for account in accounts.of(agent.organization, carrier))
        if not by_address and not CARRIERS[carrier].profile.signs_upgrades:
            raise ValueError(
                f"{agent.organization} wants its {carrier} calls proven, and their sockets are not signed: "
                f"point the carrier at /xml/{carrier}, whose documents carry a token"
            )
    target = StreamTarget(None, None, settings.limits.max_body_bytes)
    return stream_document(accounts, agent, IncomingCall(carrier), target)
