# SPDX-License-Identifier: BSD-2-Clause
"""Outbound calls of a gateway with two workers: each step of a call may reach either of them."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from gateway.simulator.waiting import POLL_S, eventually
from tests.harness.agent import Agent
from tests.harness.callees import Callee
from tests.harness.rest_accounts import SERVERS

CALLS = 24
"""Enough that both workers get some of the connections: one gets all less than once in a million runs."""
PER_SECOND = 20.0


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return {
        "server": {"workers": 2},
        "support": {"max_agents": 1, "sessions_per_instance": 100},
        "account": {"calls_per_second": PER_SECOND},
    }


async def test_all_workers_share_one_rate(outbound: Any) -> None:
    before, turns = set(outbound.stored_keys("dial_slot")), set()
    asking = asyncio.gather(*(outbound.request_call("twilio") for _ in range(CALLS)))
    while not asking.done():  # a turn is forgotten some seconds after it
        turns.update(outbound.stored_keys("dial_slot"))
        await asyncio.sleep(POLL_S)
    answers = await asking
    assert [status for status, _ in answers] == [200] * CALLS
    assert outbound.dial_count() == CALLS
    turns.update(outbound.stored_keys("dial_slot"))
    assert len(turns - before) == CALLS  # no two calls had one turn
    owners = {row["owner"] for row in outbound.gateway.sessions()}
    assert len(owners) == 2
    for call in list(outbound.servers["twilio"].calls.values()):
        await Callee("twilio", outbound.servers["twilio"], call).over("busy")
    for _, answer in answers:
        assert (await outbound.ended(answer["sessionId"]))["reason"] == "busy"


@pytest.mark.parametrize("carrier", tuple(SERVERS))
async def test_any_worker_carries_and_controls_any_call(outbound: Any, support: Agent, carrier: str) -> None:
    crossed = 0
    for _ in range(4):
        session, phone = await outbound.dial(carrier)
        dialing_worker = outbound.gateway.sessions(session)[0]["owner"]
        caller, opening = await phone.opens(outbound.gateway, await phone.answered())
        agent = await support.call()
        await agent.opening(opening)
        await outbound.wait_for_agent(session, phone)
        crossed += outbound.gateway.sessions(session)[0]["owner"] != dialing_worker
        if carrier == "exotel":
            caller.send(caller.close_frame(1000))
            reason = "caller_hangup"
        else:
            status, answer = await outbound.post(f"/v1/sessions/{session}/call/hangup")
            assert status == 200, answer
            assert phone.hung_up
            reason = "hung_up"
        await agent.closed()
        await caller.closed()
        assert (await outbound.ended(session))["reason"] == reason


async def test_a_worker_that_dies_leaves_no_slot_taken(outbound: Any) -> None:
    session, phone = await outbound.dial("telnyx")
    (ringing,) = outbound.gateway.sessions(session)
    (owner,) = [one for one in outbound.gateway.workers() if one["id"] == ringing["owner"]]
    os.kill(owner["pid"], signal.SIGKILL)
    record = await outbound.ended(session)
    assert (record["state"], record["reason"]) == ("failed", "gateway_lost")
    await eventually(lambda: outbound.gateway.listening() == 2, "there are two workers again")
    caller, _ = await phone.opens(outbound.gateway, await phone.answered())
    assert (await caller.closed())[0] == 1008
