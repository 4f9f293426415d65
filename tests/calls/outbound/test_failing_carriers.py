# SPDX-License-Identifier: BSD-2-Clause
"""Carriers that refuse, fail or do not answer: no number is dialed twice, and no slot is lost."""

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


async def ended_as(outbound: Any, reason: str) -> dict[str, Any]:
    """Return the newest session, which must have failed for this reason."""
    record = await outbound.ended(outbound.gateway.sessions()[-1]["id"])
    assert (record["state"], record["reason"]) == ("failed", reason)
    return record


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_carrier_that_refuses(outbound: Any, carrier: str) -> None:
    server = outbound.servers[carrier]
    server.next("dial", fails(401))
    status, answer = await outbound.request_call(carrier)
    assert (status, answer["code"]) == (502, "carrier_refused")
    assert "+1415" not in answer["error"]
    await ended_as(outbound, "carrier_refused")
    assert outbound.dial_count(carrier) == 1


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_rate_limited_carrier_is_asked_again(outbound: Any, carrier: str) -> None:
    outbound.servers[carrier].next("dial", fails(429, Retry_After="1"), fails(429, Retry_After="0"))
    session, phone = await outbound.dial(carrier)
    assert (outbound.dial_count(carrier), len(outbound.servers[carrier].calls)) == (3, 1)
    await phone.over("busy")
    assert (await outbound.ended(session))["reason"] == "busy"


async def test_a_carrier_that_is_rate_limited_for_long_ends_the_call(outbound: Any) -> None:
    outbound.servers["twilio"].next("dial", fails(429, Retry_After="3600"))
    status, answer = await outbound.request_call()
    assert (status, answer["code"]) == (503, "carrier_busy")
    await ended_as(outbound, "carrier_busy")


async def test_a_carrier_that_cannot_be_reached(outbound: Any) -> None:
    await outbound.servers["twilio"].stop()
    status, answer = await outbound.request_call()
    assert (status, answer["code"]) == (502, "carrier_unreachable")
    await ended_as(outbound, "carrier_unreachable")


@pytest.mark.parametrize("carrier", ["twilio", "plivo"])
async def test_a_call_whose_answer_was_lost_is_found(outbound: Any, support: Agent, carrier: str) -> None:
    outbound.servers[carrier].next("dial", acts_then_resets)
    session, phone = await outbound.dial(carrier)
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    await agent.opening(opening)
    assert agent.session == session
    caller.send(caller.close_frame(1000))
    await agent.closed()
    assert (await outbound.ended(session))["reason"] == "caller_hangup"
    assert (outbound.dial_count(carrier), len(outbound.servers[carrier].calls)) == (1, 1)


async def test_a_request_that_may_be_repeated_makes_one_call(outbound: Any) -> None:
    server = outbound.servers["telnyx"]
    server.next("dial", acts_then_resets, says("<html>down</html>", status=502, makes=True))
    session, phone = await outbound.dial("telnyx")
    assert (outbound.dial_count("telnyx"), len(server.calls)) == (3, 1)
    await phone.over("busy")
    assert (await outbound.ended(session))["reason"] == "busy"


async def test_a_callback_shows_a_call_whose_answer_was_lost(outbound: Any) -> None:
    """Exotel cannot be asked for it."""
    server = outbound.servers["exotel"]
    server.next("dial", says("<html>busy</html>", makes=True))
    asking = asyncio.create_task(outbound.request_call("exotel"))
    await eventually(lambda: server.calls, "the call is made")
    phone = Callee("exotel", server, next(iter(server.calls.values())))
    await phone.rings()
    status, answer = await asking
    assert (status, answer["callId"]) == (200, phone.call_id)
    await phone.over("no-answer")
    assert (await outbound.ended(answer["sessionId"]))["reason"] == "no_answer"
    assert outbound.dial_count("exotel") == 1


@pytest.mark.parametrize("carrier", ["twilio", "plivo", "exotel"])
async def test_a_call_that_may_not_have_been_made_is_not_made_again(outbound: Any, carrier: str) -> None:
    server = outbound.servers[carrier]
    server.next("dial", resets)
    asking = asyncio.create_task(outbound.request_call(carrier))
    await eventually(lambda: server.requests_of("dial"), "the carrier is asked")
    session = outbound.gateway.sessions()[-1]["id"]
    assert (await outbound.post(f"/v1/sessions/{session}/stop"))[0] == 200
    await asking
    assert (await outbound.ended(session))["reason"] == "stopped"
    assert (outbound.dial_count(carrier), server.calls) == (1, {})


async def test_a_call_that_was_made_while_its_session_was_stopped_is_hung_up(outbound: Any) -> None:
    server = outbound.servers["twilio"]
    is_dialing, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(_: Any, request: Any, act: Any) -> Any:
        is_dialing.set()
        await go_on.wait()
        return act()

    server.next("dial", slowly)
    asking = asyncio.create_task(outbound.request_call())
    await is_dialing.wait()
    session = outbound.gateway.sessions()[-1]["id"]
    await outbound.post(f"/v1/sessions/{session}/stop")
    assert (await outbound.ended(session))["reason"] == "stopped"
    go_on.set()
    assert (await asking)[0] == 503
    await eventually(lambda: server.calls and server.requests_of("update"), "the call is hung up")
    (call,) = server.calls.values()
    await eventually(lambda: call.resource["status"] == "canceled", "the call is canceled")


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"])
async def test_a_session_that_is_stopped_while_it_rings_rings_no_more(outbound: Any, carrier: str) -> None:
    session, phone = await outbound.dial(carrier)
    await phone.rings()
    await outbound.post(f"/v1/sessions/{session}/stop")
    record = await outbound.ended(session)
    assert (record["state"], record["reason"]) == ("canceled", "stopped")
    await eventually(lambda: phone.hung_up, "the telephone rings no more")


async def test_a_call_that_is_hung_up_on_while_it_rings(outbound: Any) -> None:
    session, phone = await outbound.dial()
    await phone.rings()
    assert (await outbound.post(f"/v1/sessions/{session}/call/hangup"))[0] == 200
    record = await outbound.ended(session)
    assert (record["state"], record["reason"]) == ("canceled", "hung_up")
    await eventually(lambda: phone.hung_up, "the telephone rings no more")


async def test_a_stream_that_comes_after_its_session_was_given_up_is_refused(outbound: Any) -> None:
    session, phone = await outbound.dial("telnyx")
    url = await phone.answered()
    await outbound.post(f"/v1/sessions/{session}/stop")
    await outbound.ended(session)
    caller, _ = await phone.opens(outbound.gateway, url)
    assert (await caller.closed())[0] == 1008


async def test_a_hang_up_that_the_carrier_fails_is_tried_again(outbound: Any) -> None:
    session, phone = await outbound.dial("plivo")
    await phone.rings()
    outbound.servers["plivo"].next("hangup", fails(503))
    await outbound.post(f"/v1/sessions/{session}/stop")
    await outbound.ended(session)
    await eventually(lambda: phone.hung_up, "the telephone rings no more")
