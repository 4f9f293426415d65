# SPDX-License-Identifier: BSD-2-Clause
"""Requests to the API with acme's key."""

from __future__ import annotations

import http.client
import json

from tests.harness.gateway import Gateway
from tests.harness.peer import WAIT_S

KEY = "sk_acme"
"""The private key of acme, in the settings of who uses this."""


def ask(gateway: Gateway, method: str, path: str, body: dict[str, str] | None = None) -> int:
    """Asks the API; the answer's status."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    try:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def delete(gateway: Gateway, session: str) -> int:
    """Has a session of support stopped; the answer's status."""
    return ask(gateway, "DELETE", f"/v1/agents/support/sessions/{session}")
