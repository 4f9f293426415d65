# SPDX-License-Identifier: BSD-2-Clause
"""The agent that an inbound call is for: by path, query, parameter or token, else by the called number
(docs/reference/public-api.md, "Media sockets").

A call that names an agent which is not served here is refused in words that do not say so to everybody.
"""

from __future__ import annotations

from gateway.calls.authorization import (
    Credentials,
    as_without_credentials,
    authenticate_start,
    authenticate_upgrade,
)
from gateway.calls.services import CallServices
from gateway.calls.target import Target
from gateway.config import AgentSettings
from gateway.media.accept import Upgrade
from gateway.model.reasons import CallEnded
from serializers.events import Start
from serializers.opening import SERVICE_HOST_PARAMETERS


def route_by_url(services: CallServices, upgrade: Upgrade, target: Target) -> AgentSettings:
    """Find the agent of an upgrade that is not authenticated yet, by its URL alone. Raises CallEnded."""
    try:
        return _find(services, list(target.named), None, target.region)
    except CallEnded as end:
        raise as_without_credentials(
            services,
            end,
            target.named,
            lambda agent: authenticate_upgrade(services, upgrade, target, agent),
        ) from None


def route_by_start(
    services: CallServices, target: Target, start: Start, credentials: Credentials
) -> AgentSettings:
    """Find the agent by all that is known of the call. Raises CallEnded."""
    session = credentials.session
    names = [*target.named, session.service_host] if session else list(target.named)
    names += [start.parameters[key] for key in SERVICE_HOST_PARAMETERS if start.parameters.get(key)]
    try:
        return _find(services, names, start.to_number, target.region)
    except CallEnded as end:
        raise as_without_credentials(
            services,
            end,
            names,
            lambda agent: authenticate_start(services, target.carrier, start, agent, credentials),
        ) from None


def _find(services: CallServices, names: list[str], to_number: str | None, region: str) -> AgentSettings:
    agent = services.agents.named(names, region)
    return agent if agent is not None else services.agents.called(to_number, region)
