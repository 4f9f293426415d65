# SPDX-License-Identifier: BSD-2-Clause
"""`/livez`, `/readyz`, `/status`, and requests that should be WebSocket upgrades."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import __version__
from gateway.model.lifecycle import SessionState
from tests.harness.agent import Agent
from tests.harness.call_assertions import assert_ended, connect, hang_up
from tests.harness.gateway import Gateway


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {"server": {"region": "ap-south"}}


async def test_a_gateway_is_alive_and_ready(gateway: Gateway) -> None:
    assert gateway.get("/livez") == (200, {"status": "alive"})
    assert gateway.get("/readyz") == (200, {"status": "ready"})


async def test_status_counts_calls_and_sessions(gateway: Gateway, support: Agent) -> None:
    status = gateway.status()
    assert (
        status.items()
        >= {
            "version": __version__,
            "region": "ap-south",
            "agents": 1,
            "workers": 1,
            "draining": False,
            "calls": 0,
        }.items()
    )
    assert set(status["regions"]) == {"us-west", "us-east", "eu-central", "ap-south"}
    assert status["sessions"]["by_state"].keys() == {str(state) for state in SessionState}
    ended = status["sessions"]["by_state"]["ended"]

    call = await connect(gateway, support)
    status = gateway.status()
    assert (status["calls"], status["sessions"]["active"]) == (1, 1)
    await hang_up(call)
    await assert_ended(gateway, call.session, "caller_hangup", "caller")
    status = gateway.status()
    assert status["sessions"]["active"] == 0
    assert status["sessions"]["by_state"]["ended"] == ended + 1


@pytest.mark.parametrize("path", ["/ws/twilio", "/ws/twilio/support.acme", "/ws/generic", "/ws/vonage"])
async def test_a_request_for_a_media_socket_without_upgrade_gets_426(gateway: Gateway, path: str) -> None:
    status, answer = gateway.get(path)
    assert status in (404, 426)
    assert answer["code"] in ("bad_request", "not_found")


@pytest.mark.parametrize("path", ["/nothing", "/livez/more", "/wsx/twilio"])
async def test_unknown_paths_get_404(gateway: Gateway, path: str) -> None:
    assert gateway.get(path)[0] == 404
