# SPDX-License-Identifier: BSD-2-Clause
"""Agents that are told the session's id in place of the call's (`hide_call_id`), which hang nothing up."""

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
async def test_the_opening_names_the_session(office: Any, support: Agent, carrier: str) -> None:
    session, phone = await office.dial(carrier)
    caller, said = await phone.opens(office.gateway, await phone.answered())
    agent = await support.call()
    heard = [json.loads((await agent.hear()).payload) for _ in said]
    expected = [json.loads(text) for text in phone.opening(session)]
    assert heard == expected
    assert heard[-1]["start"][CALL_IDS[carrier]] == session
    early = caller.say(talk(carrier)[0])
    word = await agent.hear()
    assert word.raw == early
    caller.send(caller.close_frame(1000))
    await agent.closed()
    assert (await office.over(session))["call_id"] == phone.call_id


async def test_what_is_said_with_the_opening_follows_it(office: Any, support: Agent) -> None:
    session, phone = await office.dial("plivo")
    url = await phone.answered()
    caller, said = await phone.opens(office.gateway, url)
    detail = [caller.say(text) for text in talk("plivo")[:3]]
    agent = await support.call()
    assert len(said) == 1
    assert json.loads((await agent.hear()).payload)["start"]["callId"] == session
    assert [(await agent.hear()).raw for _ in detail] == detail
    caller.send(caller.close_frame(1000))
    await agent.closed()
    await office.over(session)


async def test_a_transfer_ends_the_agent_at_once(office: Any, support: Agent) -> None:
    session, phone = await office.dial("twilio")
    caller, said = await phone.opens(office.gateway, await phone.answered())
    agent = await support.call()
    for _ in said:
        await agent.hear()
    await office.streaming(session, phone)
    status, _ = await office.post(f"/v1/sessions/{session}/call/transfer", {"to": "+14155550177"})
    assert status == 200
    assert (await agent.closed())[0] == 1000
    assert (await caller.closed())[0] == 1000
    record = await office.over(session)
    assert (record["state"], record["reason"]) == ("ended", "transferred")
    assert not phone.hung_up


async def test_where_the_agent_s_end_hangs_nothing_up(office: Any, support: Agent) -> None:
    session, phone = await office.dial("twilio")
    caller, said = await phone.opens(office.gateway, await phone.answered())
    agent = await support.call()
    for _ in said:
        await agent.hear()
    agent.say(replies("twilio")[0])
    await caller.hear()
    agent.send(agent.close_frame(1000, "bye"))
    assert await caller.closed() == (1000, "bye")
    assert (await office.over(session))["reason"] == "agent_ended"
    assert not phone.hung_up
