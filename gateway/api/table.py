# SPDX-License-Identifier: BSD-2-Clause
"""Every operation of the API: the one table that its routes and its document are made from."""

from __future__ import annotations

from typing import Final

from gateway.api.call_control import CALL_CONTROL
from gateway.api.call_documents import CALL_DOCUMENTS
from gateway.api.callbacks import CALLBACKS
from gateway.api.dialin import DIALIN
from gateway.api.dialout import DIALOUT
from gateway.api.documents import DOCUMENTS
from gateway.api.management import MANAGEMENT
from gateway.api.operation import Operation
from gateway.api.session_proxy import SESSION_PROXY
from gateway.api.sessions import SESSIONS
from gateway.api.start import START
from gateway.api.whatsapp import WHATSAPP

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
