# SPDX-License-Identifier: BSD-2-Clause
"""The management API, whole and in both spellings (public-api.md, "Management")."""

from __future__ import annotations

from typing import Final

from gateway.api.agent_sessions import AGENT_SESSIONS
from gateway.api.agents import AGENTS
from gateway.api.keys_routes import API_KEYS
from gateway.api.not_here import NOT_HERE
from gateway.api.operation import Operation
from gateway.api.organizations import ORGANIZATIONS
from gateway.api.properties import PROPERTIES

MANAGEMENT: Final[tuple[Operation, ...]] = (
    *ORGANIZATIONS,
    *PROPERTIES,
    *API_KEYS,
    *AGENTS,
    *AGENT_SESSIONS,
    *NOT_HERE,
)
