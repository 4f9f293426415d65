# SPDX-License-Identifier: BSD-2-Clause
"""Requests to a gateway's API with the private key of acme."""

from __future__ import annotations

import http.client
import json

from gateway.simulator.waiting import WAIT_S
from tests.harness.gateway import Gateway

KEY = "sk_acme"
"""The private key, which the test's settings must contain."""


def api_request(gateway: Gateway, method: str, path: str, body: dict[str, str] | None = None) -> int:
    """Send a request; return the status of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    try:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def stop_session(gateway: Gateway, session: str) -> int:
    """Stop a session of the agent support; return the status of the answer."""
    return api_request(gateway, "DELETE", f"/v1/agents/support/sessions/{session}")
