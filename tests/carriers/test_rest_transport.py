# SPDX-License-Identifier: BSD-2-Clause
"""One request to a carrier's REST API: what does not depend on the carrier and its server."""

from __future__ import annotations

import aiohttp

from gateway.carriers.rest_transport import RestAccess, RestApi, RestTimeouts, RestTransport
from tests.harness.agent import AgentPort
from tests.harness.rest_accounts import failure

SHORT_S = 1.0


async def test_a_connection_that_is_not_taken_in_time_carried_nothing(http: aiohttp.ClientSession) -> None:
    port = AgentPort()
    full = port.listen()
    full.listen(0)
    waiting = []
    try:
        for _ in range(4):  # more than the backlog holds: from then on the kernel drops what comes
            connection = full.__class__()
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port.number))
            waiting.append(connection)
        api = RestApi("Twilio", port.url, lambda _: (None, None))
        slow = RestTransport(api, RestAccess(port.url, "x", ()), http, RestTimeouts(connect_s=SHORT_S))
        failed = await failure(slow.send("POST", "/calls", body={}))
    finally:
        for connection in (*waiting, full):
            connection.close()
        port.free()
    assert (failed.kind, failed.uncertain) == ("unreachable", False)
