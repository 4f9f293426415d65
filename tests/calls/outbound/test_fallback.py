# SPDX-License-Identifier: BSD-2-Clause
"""Callers whose agent is lost and not replaced are transferred, where the agent's settings say so."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent
from tests.harness.failing_server import fails

ELSEWHERE = "+14155550177"


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return {"support": {"max_resumes": 0, "fallback": ELSEWHERE}}


async def lost(office: Any, support: Agent, carrier: str) -> tuple[str, Any, Any]:
    """A call whose agent is lost: session, telephone, the carrier's socket."""
    session, phone = await office.dial(carrier)
    caller, said = await phone.opens(office.gateway, await phone.answered())
    agent = await support.call()
    for _ in said:
        await agent.hear()
    await office.streaming(session, phone)
    agent.reset()
    return session, phone, caller


ASKED = {"twilio": "update", "telnyx": "command", "plivo": "transfer"}
"""How each carrier's server names what transfers a call."""


@pytest.mark.parametrize("carrier", ASKED)
async def test_the_caller_is_transferred(office: Any, support: Agent, carrier: str) -> None:
    session, phone, caller = await lost(office, support, carrier)
    assert (await caller.closed())[0] == 1011
    record = await office.over(session)
    assert (record["reason"], record["state"], record["resumed"]) == ("agent_lost", "failed", 0)
    assert record["detail"].endswith("; its caller was transferred")
    (asked,) = office.servers[carrier].requests_of(ASKED[carrier])
    assert ELSEWHERE in str(asked) or carrier == "plivo", "Plivo asks for the document"
    assert not phone.hung_up


async def test_a_carrier_that_refuses(office: Any, support: Agent) -> None:
    office.servers["twilio"].next("update", fails(400))
    session, _, caller = await lost(office, support, "twilio")
    assert (await caller.closed())[0] == 1011
    record = await office.over(session)
    assert record["reason"] == "agent_lost"
    assert "; its caller was not transferred: " in record["detail"]


async def test_a_carrier_that_cannot(office: Any, support: Agent) -> None:
    session, _, caller = await lost(office, support, "exotel")
    assert (await caller.closed())[0] == 1011
    record = await office.over(session)
    assert "; its caller was not transferred: " in record["detail"]


async def test_a_caller_who_leaves_meanwhile(office: Any, support: Agent) -> None:
    """The transfer is tried, and the end stays the agent's."""
    session, _, caller = await lost(office, support, "twilio")
    await caller.hang_up()
    record = await office.over(session)
    assert record["reason"] in ("agent_lost", "caller_hangup")
    await eventually(lambda: office.gateway.status()["calls"] == 0, "the call is over")
