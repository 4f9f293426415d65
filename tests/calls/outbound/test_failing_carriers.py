# SPDX-License-Identifier: BSD-2-Clause
"""Carriers that refuse, fail or say nothing: nothing is dialled twice, and no place is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent
from tests.harness.callees import Callee
from tests.harness.failing_server import acts_then_resets, fails, resets, says
from tests.harness.rest_accounts import SERVERS

CARRIERS = tuple(SERVERS)


async def ended_as(office: Any, reason: str) -> dict[str, Any]:
    """The newest session, which must have failed so."""
    record = await office.over(office.gateway.sessions()[-1]["id"])
    assert (record["state"], record["reason"]) == ("failed", reason)
    return record


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_carrier_that_refuses(office: Any, carrier: str) -> None:
    server = office.servers[carrier]
    server.next("dial", fails(401))
    status, answer = await office.ask(carrier)
    assert (status, answer["code"]) == (502, "carrier_refused")
    assert "+1415" not in answer["error"]
    await ended_as(office, "carrier_refused")
    assert office.dials(carrier) == 1


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_carrier_that_takes_no_more_for_now_is_asked_again(office: Any, carrier: str) -> None:
    office.servers[carrier].next("dial", fails(429, Retry_After="1"), fails(429, Retry_After="0"))
    session, phone = await office.dial(carrier)
    assert (office.dials(carrier), len(office.servers[carrier].calls)) == (3, 1)
    await phone.over("busy")
    assert (await office.over(session))["reason"] == "busy"


async def test_a_carrier_that_takes_no_more_for_long(office: Any) -> None:
    office.servers["twilio"].next("dial", fails(429, Retry_After="3600"))
    status, answer = await office.ask()
    assert (status, answer["code"]) == (503, "carrier_busy")
    await ended_as(office, "carrier_busy")


async def test_a_carrier_that_cannot_be_reached(office: Any) -> None:
    await office.servers["twilio"].stop()
    status, answer = await office.ask()
    assert (status, answer["code"]) == (502, "carrier_unreachable")
    await ended_as(office, "carrier_unreachable")


@pytest.mark.parametrize("carrier", ["twilio", "plivo"])
async def test_a_call_whose_making_nobody_heard_of_is_found(
    office: Any, support: Agent, carrier: str
) -> None:
    office.servers[carrier].next("dial", acts_then_resets)
    session, phone = await office.dial(carrier)
    caller, said = await phone.opens(office.gateway, await phone.answered())
    agent = await support.call()
    await agent.opening(said)
    assert agent.session == session
    caller.send(caller.close_frame(1000))
    await agent.closed()
    assert (await office.over(session))["reason"] == "caller_hangup"
    assert (office.dials(carrier), len(office.servers[carrier].calls)) == (1, 1)


async def test_a_request_that_may_be_repeated_makes_one_call(office: Any) -> None:
    server = office.servers["telnyx"]
    server.next("dial", acts_then_resets, says("<html>down</html>", status=502, makes=True))
    session, phone = await office.dial("telnyx")
    assert (office.dials("telnyx"), len(server.calls)) == (3, 1)
    await phone.over("busy")
    assert (await office.over(session))["reason"] == "busy"


async def test_a_callback_tells_of_a_call_whose_making_nobody_heard_of(office: Any) -> None:
    """Exotel cannot be asked for it."""
    server = office.servers["exotel"]
    server.next("dial", says("<html>busy</html>", makes=True))
    asking = asyncio.create_task(office.ask("exotel"))
    await eventually(lambda: server.calls, "the call is made")
    phone = Callee("exotel", server, next(iter(server.calls.values())))
    await phone.rings()
    status, answer = await asking
    assert (status, answer["callId"]) == (200, phone.call_id)
    await phone.over("no-answer")
    assert (await office.over(answer["sessionId"]))["reason"] == "no_answer"
    assert office.dials("exotel") == 1


@pytest.mark.parametrize("carrier", ["twilio", "plivo", "exotel"])
async def test_a_call_that_may_not_have_been_made_is_not_made_again(office: Any, carrier: str) -> None:
    server = office.servers[carrier]
    server.next("dial", resets)
    asking = asyncio.create_task(office.ask(carrier))
    await eventually(lambda: server.requests_of("dial"), "the carrier is asked")
    session = office.gateway.sessions()[-1]["id"]
    assert (await office.post(f"/v1/sessions/{session}/stop"))[0] == 200
    await asking
    assert (await office.over(session))["reason"] == "stopped"
    assert (office.dials(carrier), server.calls) == (1, {})


async def test_a_call_that_was_made_while_its_session_was_stopped_is_hung_up(office: Any) -> None:
    server = office.servers["twilio"]
    heard, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(_: Any, request: Any, act: Any) -> Any:
        heard.set()
        await go_on.wait()
        return act()

    server.next("dial", slowly)
    asking = asyncio.create_task(office.ask())
    await heard.wait()
    session = office.gateway.sessions()[-1]["id"]
    await office.post(f"/v1/sessions/{session}/stop")
    assert (await office.over(session))["reason"] == "stopped"
    go_on.set()
    assert (await asking)[0] == 503
    await eventually(lambda: server.calls and server.requests_of("update"), "the call is hung up")
    (call,) = server.calls.values()
    await eventually(lambda: call.resource["status"] == "canceled", "the call is canceled")


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"])
async def test_a_session_that_is_stopped_while_it_rings_rings_no_more(office: Any, carrier: str) -> None:
    session, phone = await office.dial(carrier)
    await phone.rings()
    await office.post(f"/v1/sessions/{session}/stop")
    record = await office.over(session)
    assert (record["state"], record["reason"]) == ("canceled", "stopped")
    await eventually(lambda: phone.hung_up, "the telephone rings no more")


async def test_a_call_that_is_hung_up_on_while_it_rings(office: Any) -> None:
    session, phone = await office.dial()
    await phone.rings()
    assert (await office.post(f"/v1/sessions/{session}/call/hangup"))[0] == 200
    record = await office.over(session)
    assert (record["state"], record["reason"]) == ("canceled", "hung_up")
    await eventually(lambda: phone.hung_up, "the telephone rings no more")


async def test_a_stream_that_comes_after_its_session_was_given_up_is_refused(office: Any) -> None:
    session, phone = await office.dial("telnyx")
    url = await phone.answered()
    await office.post(f"/v1/sessions/{session}/stop")
    await office.over(session)
    caller, _ = await phone.opens(office.gateway, url)
    assert (await caller.closed())[0] == 1008


async def test_a_hang_up_that_the_carrier_fails_is_tried_again(office: Any) -> None:
    session, phone = await office.dial("plivo")
    await phone.rings()
    office.servers["plivo"].next("hangup", fails(503))
    await office.post(f"/v1/sessions/{session}/stop")
    await office.over(session)
    await eventually(lambda: phone.hung_up, "the telephone rings no more")
