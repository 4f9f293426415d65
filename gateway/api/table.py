# SPDX-License-Identifier: BSD-2-Clause
"""Every operation of the API: the one table that its routes and its document are made from."""

from __future__ import annotations

from typing import Final

from gateway.api.management import MANAGEMENT
from gateway.api.operation import Operation
from gateway.api.session_proxy import SESSION_PROXY
from gateway.api.sessions import SESSIONS
from gateway.api.start import START

OPERATIONS: Final[tuple[Operation, ...]] = (*START, *SESSION_PROXY, *SESSIONS, *MANAGEMENT)
