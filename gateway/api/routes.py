# SPDX-License-Identifier: BSD-2-Clause
"""The route table: every operation of the API. Its routes and its OpenAPI document are made from it."""

from __future__ import annotations

from typing import Final

from gateway.api.framework.operation import Operation
from gateway.api.pipecat_cloud.agent_deployments import DEPLOYMENTS
from gateway.api.pipecat_cloud.agent_logs import AGENT_LOGS
from gateway.api.pipecat_cloud.agent_sessions import AGENT_SESSIONS
from gateway.api.pipecat_cloud.agents import AGENTS
from gateway.api.pipecat_cloud.keys import API_KEYS
from gateway.api.pipecat_cloud.organizations import ORGANIZATIONS
from gateway.api.pipecat_cloud.properties import PROPERTIES
from gateway.api.pipecat_cloud.session_proxy import SESSION_PROXY
from gateway.api.pipecat_cloud.start import START
from gateway.api.pipecat_cloud.unsupported import UNSUPPORTED
from gateway.api.reports.audit import AUDIT
from gateway.api.reports.usage import USAGE
from gateway.api.sessions.call_control import CALL_CONTROL
from gateway.api.sessions.dialout import DIALOUT
from gateway.api.sessions.sessions import SESSIONS
from gateway.api.webhooks.call_documents import CALL_DOCUMENTS
from gateway.api.webhooks.consultation_callbacks import CONSULTATION_CALLBACKS
from gateway.api.webhooks.dialin import DIALIN
from gateway.api.webhooks.documents import DOCUMENTS
from gateway.api.webhooks.incoming_callbacks import INCOMING_CALLBACKS
from gateway.api.webhooks.status_callbacks import CALLBACKS
from gateway.api.webhooks.whatsapp import WHATSAPP

OPERATIONS: Final[tuple[Operation, ...]] = (
    *START,
    *SESSION_PROXY,
    *SESSIONS,
    *ORGANIZATIONS,
    *PROPERTIES,
    *API_KEYS,
    *AGENTS,
    *DEPLOYMENTS,
    *AGENT_SESSIONS,
    *AGENT_LOGS,
    *UNSUPPORTED,
    *DIALIN,
    *DIALOUT,
    *WHATSAPP,
    *DOCUMENTS,
    *CALL_CONTROL,
    *CALL_DOCUMENTS,
    *CONSULTATION_CALLBACKS,
    *INCOMING_CALLBACKS,
    *CALLBACKS,
    *USAGE,
    *AUDIT,
)
