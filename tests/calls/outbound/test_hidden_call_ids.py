# SPDX-License-Identifier: BSD-2-Clause
"""Agents that get the session's id in place of the call's (`hide_call_id`), so they cannot hang up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.harness.agent import Agent
from tests.harness.callees import CALL_IDS
from tests.harness.rest_accounts import SERVERS
from tests.harness.transcripts import replies, talk


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return {"support": {"hide_call_id": True, "hangup_on_agent_end": False}}


@pytest.mark.parametrize("carrier", tuple(SERVERS))
async def test_the_opening_names_the_session(outbound: Any, support: Agent, carrier: str) -> None:
    session, phone = await outbound.dial(carrier)
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    received = [json.loads((await agent.hear()).payload) for _ in opening]
    expected = [json.loads(text) for text in phone.opening(session)]
    assert received == expected
    assert received[-1]["start"][CALL_IDS[carrier]] == session
    early = caller.say(talk(carrier)[0])
    word = await agent.hear()
    assert word.raw == early
    caller.send(caller.close_frame(1000))
    await agent.closed()
    assert (await outbound.ended(session))["call_id"] == phone.call_id


async def test_audio_that_comes_with_the_opening_follows_it(outbound: Any, support: Agent) -> None:
    session, phone = await outbound.dial("plivo")
    url = await phone.answered()
    caller, opening = await phone.opens(outbound.gateway, url)
    detail = [caller.say(text) for text in talk("plivo")[:3]]
    agent = await support.call()
    assert len(opening) == 1
    assert json.loads((await agent.hear()).payload)["start"]["callId"] == session
    assert [(await agent.hear()).raw for _ in detail] == detail
    caller.send(caller.close_frame(1000))
    await agent.closed()
    await outbound.ended(session)


async def test_a_transfer_ends_the_agent_at_once(outbound: Any, support: Agent) -> None:
    session, phone = await outbound.dial("twilio")
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    for _ in opening:
        await agent.hear()
    await outbound.wait_for_agent(session, phone)
    status, _ = await outbound.post(f"/v1/sessions/{session}/call/transfer", {"to": "+14155550177"})
    assert status == 200
    assert (await agent.closed())[0] == 1000
    assert (await caller.closed())[0] == 1000
    record = await outbound.ended(session)
    assert (record["state"], record["reason"]) == ("ended", "transferred")
    assert not phone.hung_up


async def test_the_agents_end_does_not_hang_up(outbound: Any, support: Agent) -> None:
    session, phone = await outbound.dial("twilio")
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    for _ in opening:
        await agent.hear()
    agent.say(replies("twilio")[0])
    await caller.hear()
    agent.send(agent.close_frame(1000, "bye"))
    assert await caller.closed() == (1000, "bye")
    assert (await outbound.ended(session))["reason"] == "agent_ended"
    assert not phone.hung_up
