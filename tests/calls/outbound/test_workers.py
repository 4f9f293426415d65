# SPDX-License-Identifier: BSD-2-Clause
"""Calls out of a gateway with two workers: who asks, who hears, and who carries may be another."""

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
"""So many that both workers get some of their connections: not once in a million does one get all."""
PER_SECOND = 20.0


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return {
        "server": {"workers": 2},
        "support": {"max_agents": 1, "sessions_per_instance": 100},
        "account": {"calls_per_second": PER_SECOND},
    }


async def test_all_workers_stand_in_one_line(office: Any) -> None:
    before, turns = set(office.documents("dial_slot")), set()
    asking = asyncio.gather(*(office.ask("twilio") for _ in range(CALLS)))
    while not asking.done():  # a turn is forgotten some seconds after it
        turns.update(office.documents("dial_slot"))
        await asyncio.sleep(POLL_S)
    answers = await asking
    assert [status for status, _ in answers] == [200] * CALLS
    assert office.dials() == CALLS
    turns.update(office.documents("dial_slot"))
    assert len(turns - before) == CALLS  # no two calls had one turn
    owners = {row["owner"] for row in office.gateway.sessions()}
    assert len(owners) == 2
    for call in list(office.servers["twilio"].calls.values()):
        await Callee("twilio", office.servers["twilio"], call).over("busy")
    for _, answer in answers:
        assert (await office.over(answer["sessionId"]))["reason"] == "busy"


@pytest.mark.parametrize("carrier", tuple(SERVERS))
async def test_any_worker_carries_and_controls_any_call(office: Any, support: Agent, carrier: str) -> None:
    crossed = 0
    for _ in range(4):
        session, phone = await office.dial(carrier)
        dialler = office.gateway.sessions(session)[0]["owner"]
        caller, said = await phone.opens(office.gateway, await phone.answered())
        agent = await support.call()
        await agent.opening(said)
        await office.streaming(session, phone)
        crossed += office.gateway.sessions(session)[0]["owner"] != dialler
        if carrier == "exotel":
            caller.send(caller.close_frame(1000))
            reason = "caller_hangup"
        else:
            status, answer = await office.post(f"/v1/sessions/{session}/call/hangup")
            assert status == 200, answer
            assert phone.hung_up
            reason = "hung_up"
        await agent.closed()
        await caller.closed()
        assert (await office.over(session))["reason"] == reason


async def test_a_worker_that_dies_leaves_no_place_taken(office: Any) -> None:
    session, phone = await office.dial("telnyx")
    (ringing,) = office.gateway.sessions(session)
    (owner,) = [one for one in office.gateway.workers() if one["id"] == ringing["owner"]]
    os.kill(owner["pid"], signal.SIGKILL)
    record = await office.over(session)
    assert (record["state"], record["reason"]) == ("failed", "gateway_lost")
    await eventually(lambda: office.gateway.listening() == 2, "there are two workers again")
    caller, _ = await phone.opens(office.gateway, await phone.answered())
    assert (await caller.closed())[0] == 1008
