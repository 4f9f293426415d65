# SPDX-License-Identifier: BSD-2-Clause
"""What the handlers of the API work with, made once per worker by gateway/app.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from gateway.agents.directory import AgentDirectory
from gateway.agents.instance_health import InstanceHealth
from gateway.auth.api_keys import Keyring
from gateway.auth.media_tokens import MediaTokens
from gateway.calls.active import ActiveCalls
from gateway.calls.bot_session import BotSessions
from gateway.calls.dispatcher import Dispatcher
from gateway.calls.outbound.outbound_calls import OutboundCalls
from gateway.calls.services import CallServices
from gateway.calls.session_start import SessionStartServices
from gateway.config import Settings
from gateway.store.interface import Store


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a handler may reach. `now` gives Unix seconds, `new_id` a session id."""

    settings: Settings
    store: Store
    agents: AgentDirectory
    calls: CallServices
    active: ActiveCalls
    outbound: OutboundCalls
    dispatcher: Dispatcher
    health: InstanceHealth
    api_keys: Keyring
    tokens: MediaTokens
    bots: BotSessions
    http: aiohttp.ClientSession
    """For the agents' HTTP; without a timeout of its own."""
    now: Callable[[], float]
    new_id: Callable[[], str]

    @property
    def session_start(self) -> SessionStartServices:
        """The services for `start_session`."""
        return SessionStartServices(self.calls, self.active, self.bots, self.http)
