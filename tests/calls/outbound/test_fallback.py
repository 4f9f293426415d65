# SPDX-License-Identifier: BSD-2-Clause
"""Callers whose agent is lost and not replaced are transferred, if the agent's settings say so."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent
from tests.harness.failing_server import fails

ELSEWHERE = "+4930555012"
"""No prefix of the organisation's allows it; but the operator wrote it."""


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return {"support": {"max_resumes": 0, "fallback": ELSEWHERE}}


async def lost(outbound: Any, support: Agent, carrier: str) -> tuple[str, Any, Any]:
    """Lose the agent of a call. Return its session, telephone and carrier socket."""
    session, phone = await outbound.dial(carrier)
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    for _ in opening:
        await agent.hear()
    await outbound.wait_for_agent(session, phone)
    agent.reset()
    return session, phone, caller


TRANSFER_REQUESTS = {"twilio": "update", "telnyx": "command", "plivo": "transfer"}
"""The request that transfers a call, as each carrier's server names it."""


@pytest.mark.parametrize("carrier", TRANSFER_REQUESTS)
async def test_the_caller_is_transferred(outbound: Any, support: Agent, carrier: str) -> None:
    session, phone, caller = await lost(outbound, support, carrier)
    assert (await caller.closed())[0] == 1011
    record = await outbound.ended(session)
    assert (record["reason"], record["state"], record["resumed"]) == ("agent_lost", "failed", 0)
    assert record["detail"].endswith("; its caller was transferred")
    (request,) = outbound.servers[carrier].requests_of(TRANSFER_REQUESTS[carrier])
    assert ELSEWHERE in str(request) or carrier == "plivo", "Plivo asks for the document"
    assert not phone.hung_up


async def test_a_carrier_that_refuses(outbound: Any, support: Agent) -> None:
    outbound.servers["twilio"].next("update", fails(400))
    session, _, caller = await lost(outbound, support, "twilio")
    assert (await caller.closed())[0] == 1011
    record = await outbound.ended(session)
    assert record["reason"] == "agent_lost"
    assert "; its caller was not transferred: " in record["detail"]


async def test_a_carrier_that_cannot(outbound: Any, support: Agent) -> None:
    session, _, caller = await lost(outbound, support, "exotel")
    assert (await caller.closed())[0] == 1011
    record = await outbound.ended(session)
    assert "; its caller was not transferred: " in record["detail"]


async def test_a_caller_who_leaves_meanwhile(outbound: Any, support: Agent) -> None:
    """The transfer is tried, and the end stays the agent's."""
    session, _, caller = await lost(outbound, support, "twilio")
    await caller.hang_up()
    record = await outbound.ended(session)
    assert record["reason"] in ("agent_lost", "caller_hangup")
    await eventually(lambda: outbound.gateway.status()["calls"] == 0, "the call is over")
