# SPDX-License-Identifier: BSD-2-Clause
"""WhatsApp calls that the agent placed: Meta's events find the instance, and take no place of their own.

Meta sends the called party's answer as `connect` (developers.facebook.com, "Business-initiated calls";
pipecat-ai/pipecat#2811, #4451).
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from gateway.model.session import SessionOptions
from gateway.model.session_ids import ulid_of
from tests.harness.agent import Agent, AgentPort
from tests.harness.start_api import Worker, bot_details
from tests.harness.whatsapp_events import (
    agrees,
    answers,
    call,
    event,
    next_whatsapp_event,
    outbound_call,
    send_event,
)

IGNORED = (200, {"status": "ignored"})


async def session_on(worker: Worker, session_id: str) -> str:
    """A session that the API has started, in which the agent may place calls; the URL of its instance."""
    support, details = bot_details(worker, session_id)
    return await worker.services.calls.capacity.acquire(support, details, SessionOptions(transport="bot"))


def status(word: str, call_id: str = "wacid.out", **more: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "call", "status": word, "recipient_id": "14155550100", **more}


@pytest.fixture
async def sessions(worker: Worker, agents: list[Agent], ports: list[AgentPort]) -> dict[str, Agent]:
    """One session on each instance, so that every place is taken."""
    by_url = {port.url: agent for port, agent in zip(ports, agents, strict=True)}
    return {name: by_url[await session_on(worker, name)] for name in ("session-1", "session-2")}


async def test_the_answer_goes_to_the_instance_that_placed_the_call_and_takes_no_place(
    worker: Worker, url: str, sessions: dict[str, Agent]
) -> None:
    for name, agent in sessions.items():
        call_id = f"wacid.{name}"
        for what in (
            event(statuses=[status("RINGING", call_id, biz_opaque_callback_data=name)]),
            event(outbound_call("connect", call_id, biz_opaque_callback_data=name)),
            event(statuses=[status("ACCEPTED", call_id)]),
            event(outbound_call("terminate", call_id)),
        ):
            assert (await send_event(url, what)).status == 200
            assert (await next_whatsapp_event(agent)).session == name
    assert sorted(record.session_id for record in await worker.records()) == sorted(sessions)
    assert all(record.active for record in await worker.records()), "the agent's own sessions go on"
    assert all(agent.calls.empty() for agent in sessions.values())


async def test_the_session_may_be_named_in_either_spelling(
    worker: Worker, url: str, agents: list[Agent], ports: list[AgentPort]
) -> None:
    by_url = {port.url: agent for port, agent in zip(ports, agents, strict=True)}
    for _ in agents:
        session = str(uuid.uuid4())
        agent = by_url[await session_on(worker, session)]
        for number, name in enumerate((ulid_of(session), session.upper())):
            call_id = f"wacid.{session}.{number}"
            told = event(statuses=[status("RINGING", call_id, biz_opaque_callback_data=name)])
            assert (await send_event(url, told)).status == 200
            assert (await next_whatsapp_event(agent)).session == session


@pytest.mark.parametrize("placed_in", ["session-1", "session-2"])
async def test_without_a_session_id_the_instances_are_tried_until_one_takes_the_answer(
    worker: Worker, url: str, sessions: dict[str, Agent], placed_in: str
) -> None:
    taker = sessions.pop(placed_in)
    (other,) = sessions.values()
    other.answer = answers(500)  # as Pipecat does with an answer to nothing
    assert (await send_event(url, event(outbound_call("connect")))).status == 200
    assert (await next_whatsapp_event(taker)).session == placed_in
    other.answer = agrees
    answer = await send_event(url, event(outbound_call("connect")))
    assert (answer.status, answer.json) == IGNORED, "Meta has repeated it"
    assert (await send_event(url, event(outbound_call("terminate")))).status == 200
    await next_whatsapp_event(taker)
    assert other.calls.empty()
    assert len(await worker.records()) == 2


async def test_an_agent_without_sessions_may_have_placed_the_call(
    worker: Worker, url: str, agents: list[Agent]
) -> None:
    assert (await send_event(url, event(outbound_call("connect")))).status == 200
    taken = [agent for agent in agents if not agent.calls.empty()]
    (agent,) = taken
    assert "x-daily-session-id" not in (await next_whatsapp_event(agent)).headers
    assert await worker.records() == []


async def test_nobody_takes_the_answer(worker: Worker, url: str, sessions: dict[str, Agent]) -> None:
    for agent in sessions.values():
        agent.answer = answers(500)
    answer = await send_event(url, event(outbound_call("connect")))
    assert (answer.status, answer.json["code"]) == (502, "agent_failed")
    first, *_ = sessions.values()
    first.answer = agrees
    assert (await send_event(url, event(outbound_call("connect")))).status == 200, "Meta repeats it"
    await next_whatsapp_event(first)


async def test_the_end_of_a_placed_call_comes_before_its_answer(
    worker: Worker, url: str, sessions: dict[str, Agent]
) -> None:
    """The agent waits for an answer that will not come: the end reaches it, and a late answer does not."""
    assert (await send_event(url, event(outbound_call("terminate", status="REJECTED")))).status == 200
    for agent in sessions.values():
        await next_whatsapp_event(agent)
    answer = await send_event(url, event(outbound_call("connect")))
    assert (answer.status, answer.json) == IGNORED
    assert all(agent.calls.empty() for agent in sessions.values())


async def test_a_status_of_a_call_that_no_session_placed_is_ignored(
    worker: Worker, url: str, agents: list[Agent]
) -> None:
    answer = await send_event(url, event(statuses=[status("RINGING")]))
    assert (answer.status, answer.json) == IGNORED
    assert all(agent.calls.empty() for agent in agents)


@pytest.mark.parametrize(
    "more",
    [
        {"session": {"sdp": "v=0\r\n", "sdp_type": "offer"}, "direction": "BUSINESS_INITIATED"},
        {"session": {"sdp": "v=0\r\n", "sdp_type": ["answer"]}},
        {"session": "v=0", "direction": {"of": "travel"}},
        {"session": {"sdp": "v=0\r\n", "sdp_type": "offer"}, "direction": "USER_INITIATED"},
    ],
)
async def test_any_other_connect_is_a_callers(
    worker: Worker, url: str, agents: list[Agent], more: dict[str, Any]
) -> None:
    assert (await send_event(url, event(call("connect", **more)))).status == 200
    (record,) = await worker.records()
    assert record.transport == "whatsapp"
