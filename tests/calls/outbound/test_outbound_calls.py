# SPDX-License-Identifier: BSD-2-Clause
"""Outbound calls from the request to the session's record, through each carrier."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.harness.agent import Agent
from tests.harness.call_assertions import assert_agent_heard, assert_caller_heard
from tests.harness.rest_accounts import SERVERS
from tests.harness.transcripts import replies, talk

CARRIERS = tuple(SERVERS)


def body_of(call: Any) -> Any:
    return json.loads(base64.b64decode(call.query["body"][0]))


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_the_called_party_answers_talks_and_hangs_up(
    outbound: Any, support: Agent, carrier: str
) -> None:
    session, phone = await outbound.dial(carrier, body={"customer": 4711}, metadata={"ticket": "7"})
    (ringing,) = outbound.gateway.sessions(session)
    assert (ringing["state"], ringing["stream_id"]) == ("starting", None)
    assert (ringing["to_number"], ringing["from_number"]) == ("+14155550142", "+14155550199")

    await phone.rings()
    view = await outbound.get(f"/v1/sessions/{session}")
    assert (view["status"], view["metadata"]) == ("starting", {"ticket": "7"})
    assert view["call"]["status"] in ("ringing", "queued")

    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    assert caller.status == 101, caller.body
    agent = await support.call()
    await agent.opening(opening)
    assert agent.session == session
    assert body_of(agent)["customer"] == 4711
    word = talk(carrier)[0]
    await assert_agent_heard(agent, [caller.say(word)])
    await assert_caller_heard(caller, [agent.say(replies(carrier)[0])])

    caller.send(caller.close_frame(1000))
    assert await agent.closed() == (1000, "")
    await phone.over("completed")
    record = await outbound.ended(session)
    assert (record["state"], record["reason"]) == ("ended", "caller_hangup")
    assert (record["call_id"], record["carrier"]) == (phone.call_id, carrier)
    view = await outbound.get(f"/v1/sessions/{session}")
    assert (view["call"]["id"], view["call"]["status"]) == (phone.call_id, "completed")
    assert outbound.dial_count(carrier) == 1


async def test_the_body_of_a_call_is_among_the_parameters_that_twilios_bots_read(
    outbound: Any, support: Agent
) -> None:
    """docs/reference/carriers.md §8.1: such a bot reads no `body` in its query, but `customParameters`."""
    said = {
        "customer_id": "4711",
        "campaign": {"name": "spring & <sale>"},
        "vip": True,
        "none": None,
        "to_number": "mine",
        "serviceHost": "other.acme",
        "_patchbay_body": "mine",
        "long": "x" * 500,
        "bell": "\a",
    }
    session, phone = await outbound.dial("twilio", body=said)
    placed = await phone.server.answer(phone.call)
    assert placed.document.parameters == {
        "customer_id": "4711",
        "campaign": '{"name":"spring & <sale>"}',
        "vip": "true",
        "from_number": "+14155550199",
        "to_number": "+14155550142",
    }
    await phone.opens(outbound.gateway, await phone.answered())
    assert body_of(await support.call()) == said
    await phone.over("completed")
    await outbound.ended(session)


async def test_a_body_that_is_too_long_for_parameters_is_in_the_query_alone(
    outbound: Any, support: Agent
) -> None:
    said = {f"name{number}": "&" * 90 for number in range(40)}
    session, phone = await outbound.dial("twilio", body=said)
    placed = await phone.server.answer(phone.call)
    assert len(placed.document.parameters) < 40
    await phone.opens(outbound.gateway, await phone.answered())
    assert body_of(await support.call()) == said
    await phone.over("completed")
    await outbound.ended(session)


@pytest.mark.parametrize("carrier", ["twilio", "plivo"])
async def test_an_agent_gets_the_numbers_if_its_carrier_sends_none(
    outbound: Any, support: Agent, carrier: str
) -> None:
    _, phone = await outbound.dial(carrier)
    url = await phone.answered()
    if carrier == "twilio":
        (placed,) = [await phone.server.answer(phone.call)]
        assert placed.document.parameters == {"from_number": "+14155550199", "to_number": "+14155550142"}
        await phone.over("completed")
    else:
        await phone.opens(outbound.gateway, url)
        assert body_of(await support.call()) == {"from": "+14155550199", "to": "+14155550142"}


@pytest.mark.parametrize(
    ("carrier", "status", "reason", "state"),
    [
        (carrier, status, reason, state)
        for carrier in CARRIERS
        for status, reason, state in [
            ("busy", "busy", "canceled"),
            ("no-answer", "no_answer", "canceled"),
            ("failed", "call_failed", "failed"),
        ]
    ],
)
async def test_a_call_that_is_not_taken_ends_its_session(
    outbound: Any, carrier: str, status: str, reason: str, state: str
) -> None:
    session, phone = await outbound.dial(carrier)
    await phone.rings()
    await phone.over(status)
    record = await outbound.ended(session)
    assert (record["state"], record["reason"]) == (state, reason)
    line = await outbound.log_line(session, "call out ended")
    assert (line["reason"], bool(line["words"])) == (reason, True)
    assert "+1415" not in json.dumps(line)


async def test_a_call_that_was_answered_and_is_over_without_a_stream(outbound: Any) -> None:
    session, phone = await outbound.dial()
    await phone.answered()
    await phone.over("completed")
    record = await outbound.ended(session)
    assert (record["state"], record["reason"]) == ("failed", "no_stream")


async def test_callbacks_that_come_late_and_twice_change_nothing(outbound: Any, support: Agent) -> None:
    session, phone = await outbound.dial()
    caller, _ = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    await phone.rings()
    await phone.rings()
    view = await outbound.get(f"/v1/sessions/{session}")
    assert view["call"]["status"] == "answered"
    caller.send(caller.close_frame(1000))
    await agent.closed()
    await phone.over("completed")
    await phone.over("busy")
    await outbound.ended(session)
    view = await outbound.get(f"/v1/sessions/{session}")
    assert (view["call"]["status"], view["end_reason"]) == ("completed", "caller_hangup")


async def test_a_stream_of_another_call_is_refused(outbound: Any, support: Agent) -> None:
    session, phone = await outbound.dial("telnyx")
    url = await phone.answered()
    caller, opening = await phone.opens(outbound.gateway, url)
    agent = await support.call()
    await agent.opening(opening)
    other, _ = await phone.opens(outbound.gateway, url, call_id="v3:another")
    assert (await other.closed())[0] == 1008
    await agent.hang_up()
    assert (await outbound.ended(session))["reason"] == "agent_ended"
    await caller.closed()


async def test_a_machine_is_hung_up_on(outbound: Any, support: Agent) -> None:
    session, phone = await outbound.dial(machine_detection="detect")
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    await agent.opening(opening)
    await phone.server.machine(phone.call)
    await agent.closed()
    record = await outbound.ended(session)
    assert (record["state"], record["reason"]) == ("ended", "machine_answered")
    assert phone.hung_up
    await caller.closed()


async def test_a_machine_is_hung_up_on_before_the_agent_hears_it(outbound: Any) -> None:
    session, phone = await outbound.dial("plivo", machine_detection=True)
    await phone.server.machine(phone.call)
    record = await outbound.ended(session)
    assert (record["state"], record["reason"]) == ("canceled", "machine_answered")


async def test_a_human_is_not_hung_up_on(outbound: Any, support: Agent) -> None:
    session, phone = await outbound.dial(machine_detection="detect")
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    await agent.opening(opening)
    await phone.server.machine(phone.call, "human")
    await assert_agent_heard(agent, [caller.say(talk("twilio")[0])])
    caller.send(caller.close_frame(1000))
    await agent.closed()
    assert (await outbound.ended(session))["reason"] == "caller_hangup"
