# SPDX-License-Identifier: BSD-2-Clause
"""The management API, whole and in both spellings (docs/reference/public-api.md, "Management")."""

from __future__ import annotations

from typing import Final

from gateway.api.framework.operation import Operation
from gateway.api.pipecat_cloud.agent_sessions import AGENT_SESSIONS
from gateway.api.pipecat_cloud.agents import AGENTS
from gateway.api.pipecat_cloud.keys import API_KEYS
from gateway.api.pipecat_cloud.organizations import ORGANIZATIONS
from gateway.api.pipecat_cloud.properties import PROPERTIES
from gateway.api.pipecat_cloud.unsupported import NOT_HERE

MANAGEMENT: Final[tuple[Operation, ...]] = (
    *ORGANIZATIONS,
    *PROPERTIES,
    *API_KEYS,
    *AGENTS,
    *AGENT_SESSIONS,
    *NOT_HERE,
)
