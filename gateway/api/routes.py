# SPDX-License-Identifier: BSD-2-Clause
"""Every operation of the API: the one table that its routes and its document are made from."""

from __future__ import annotations

from typing import Final

from gateway.api.framework.operation import Operation
from gateway.api.pipecat_cloud.management import MANAGEMENT
from gateway.api.pipecat_cloud.session_proxy import SESSION_PROXY
from gateway.api.pipecat_cloud.start import START
from gateway.api.sessions.call_control import CALL_CONTROL
from gateway.api.sessions.dialout import DIALOUT
from gateway.api.sessions.sessions import SESSIONS
from gateway.api.webhooks.call_documents import CALL_DOCUMENTS
from gateway.api.webhooks.dialin import DIALIN
from gateway.api.webhooks.documents import DOCUMENTS
from gateway.api.webhooks.status_callbacks import CALLBACKS
from gateway.api.webhooks.whatsapp import WHATSAPP

OPERATIONS: Final[tuple[Operation, ...]] = (
    *START,
    *SESSION_PROXY,
    *SESSIONS,
    *MANAGEMENT,
    *DIALIN,
    *DIALOUT,
    *WHATSAPP,
    *DOCUMENTS,
    *CALL_CONTROL,
    *CALL_DOCUMENTS,
    *CALLBACKS,
)
