# SPDX-License-Identifier: BSD-2-Clause
"""What the handlers of the API work with, made once per worker by gateway/app.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from gateway.agents.directory import Directory
from gateway.agents.readiness import Probes
from gateway.api.keys import Keyring
from gateway.calls.bots import Bots
from gateway.calls.switchboard import Switchboard
from gateway.config import Settings
from gateway.sessions.store import Store
from gateway.sessions.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a handler may reach. `now` gives Unix seconds, `new_id` a session id."""

    settings: Settings
    store: Store
    directory: Directory
    board: Switchboard
    probes: Probes
    keyring: Keyring
    tokens: Tokens
    bots: Bots
    http: aiohttp.ClientSession
    """For the agents' HTTP; without a timeout of its own."""
    now: Callable[[], float]
    new_id: Callable[[], str]
