# SPDX-License-Identifier: BSD-2-Clause
"""The services that the API's handlers use; gateway/app.py makes them once per worker."""

from __future__ import annotations

from dataclasses import dataclass, field

import aiohttp

from gateway.calls.active import ActiveCalls
from gateway.calls.bot_session import BotSessions
from gateway.calls.dispatcher import Dispatcher
from gateway.calls.outbound.outbound_calls import OutboundCalls
from gateway.calls.services import CallServices
from gateway.calls.session_start import SessionStartServices
from gateway.pool.agent_output import AgentOutput


@dataclass(frozen=True, slots=True)
class Services:
    """The call services, and the owners of this worker's calls and sessions."""

    calls: CallServices
    active: ActiveCalls
    outbound: OutboundCalls
    dispatcher: Dispatcher
    bots: BotSessions
    http: aiohttp.ClientSession
    """The client for the agents' HTTP and for Daily's REST API. It has no timeout of its own."""
    output: AgentOutput = field(default_factory=AgentOutput)
    """The output of instances that the gateway has started."""

    @property
    def session_start(self) -> SessionStartServices:
        """The services for `start_session`."""
        return SessionStartServices(self.calls, self.active, self.bots, self.http)
