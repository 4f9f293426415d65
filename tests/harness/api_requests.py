# SPDX-License-Identifier: BSD-2-Clause
"""Requests to the API with acme's key."""

from __future__ import annotations

import http.client
import json

from gateway.simulator.waiting import WAIT_S
from tests.harness.gateway import Gateway

KEY = "sk_acme"
"""The private key of acme, in the settings of who uses this."""


def api_request(gateway: Gateway, method: str, path: str, body: dict[str, str] | None = None) -> int:
    """Asks the API; the answer's status."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    try:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def stop_session(gateway: Gateway, session: str) -> int:
    """Has a session of support stopped; the answer's status."""
    return api_request(gateway, "DELETE", f"/v1/agents/support/sessions/{session}")
