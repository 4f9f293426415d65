# SPDX-License-Identifier: BSD-2-Clause
"""WhatsApp calls: all events of one call go to one instance (docs/reference/carriers.md §7)."""

from __future__ import annotations

import asyncio
import json

import pytest
import structlog

from gateway.model.lifecycle import SessionState
from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentCall
from tests.harness.http_requests import send
from tests.harness.start_api import Worker
from tests.harness.whatsapp_events import (
    agrees,
    answers,
    call,
    event,
    next_whatsapp_event,
    send_event,
    signed,
)

# A call


async def test_a_call_holds_its_slot_until_it_is_over(worker: Worker, url: str, agents: list[Agent]) -> None:
    raw = json.dumps(event(call("connect"))).encode()
    answer = await send(url, raw=raw, **signed(raw))
    assert (answer.status, answer.json) == (200, {"status": "success"})
    received = await next_whatsapp_event(agents[0])
    assert received.body == raw  # type: ignore[attr-defined]
    assert received.headers["x-hub-signature-256"] == signed(raw)["X-Hub-Signature-256"]
    assert received.headers["content-type"] == "application/json"
    record = await worker.store.session(received.session)
    assert record is not None
    assert (record.state, record.transport, record.call_id) == (SessionState.RUNNING, "whatsapp", "wacid.1")
    assert (record.from_number, record.to_number) == ("14155550100", "14155550199")
    await eventually(lambda: worker.services.active, "it is held")

    with structlog.testing.capture_logs() as lines:
        assert (await send_event(url, event(call("terminate", status="COMPLETED")))).status == 200
    terminate = await next_whatsapp_event(agents[0])
    assert terminate.session == received.session
    record = await worker.over(received.session)
    assert (record.state, record.reason) == (SessionState.ENDED, "caller_hangup")
    assert [line["session"] for line in lines if line["event"] == "whatsapp call ended"] == [received.session]
    assert "1415" not in str(lines)
    await eventually(lambda: not worker.services.active, "it is let go")
    assert agents[1].calls.empty()


async def test_two_calls_go_to_two_instances_and_stay_there(
    worker: Worker, url: str, agents: list[Agent]
) -> None:
    assert (await send_event(url, event(call("connect", "wacid.1")))).status == 200
    assert (await send_event(url, event(call("connect", "wacid.2")))).status == 200
    first, second = await next_whatsapp_event(agents[0]), await next_whatsapp_event(agents[1])
    for call_id, agent, begun in (("wacid.2", agents[1], second), ("wacid.1", agents[0], first)):
        assert (await send_event(url, event(call("terminate", call_id)))).status == 200
        assert (await next_whatsapp_event(agent)).session == begun.session
        await worker.over(begun.session)


async def test_a_third_call_finds_no_slot_until_another_is_over(
    worker: Worker, url: str, agents: list[Agent]
) -> None:
    for call_id in ("wacid.1", "wacid.2"):
        assert (await send_event(url, event(call("connect", call_id)))).status == 200
    with structlog.testing.capture_logs() as lines:
        answer = await send_event(url, event(call("connect", "wacid.3")))
    assert answer.status == 429
    refused = [line["reason"] for line in lines if line["event"] == "whatsapp event refused"]
    assert refused == ["at_capacity"]
    await send_event(url, event(call("terminate", "wacid.1")))
    assert (await send_event(url, event(call("connect", "wacid.3")))).status == 200


async def test_a_repeated_connect_starts_nothing(worker: Worker, url: str, agents: list[Agent]) -> None:
    answer = await asyncio.gather(*(send_event(url, event(call("connect"))) for _ in range(4)))
    assert [each.status for each in answer] == [200] * 4
    assert sum(agent.calls.qsize() for agent in agents) == 1
    assert len(await worker.records()) == 1


async def test_an_event_of_a_running_call_goes_to_its_instance(url: str, agents: list[Agent]) -> None:
    await send_event(url, event(call("connect")))
    begun = await next_whatsapp_event(agents[0])
    status = {"id": "wacid.1", "type": "call", "status": "RINGING"}
    assert (await send_event(url, event(statuses=[status]))).status == 200
    assert (await next_whatsapp_event(agents[0])).session == begun.session


@pytest.mark.parametrize("what", ["terminate", "connect"])
async def test_what_is_repeated_of_a_call_that_is_over_is_ignored(
    worker: Worker, url: str, agents: list[Agent], what: str
) -> None:
    for each in ("connect", "terminate"):
        await send_event(url, event(call(each)))
        await next_whatsapp_event(agents[0])
    answer = await send_event(url, event(call(what)))
    assert (answer.status, answer.json) == (200, {"status": "ignored"})
    assert len(await worker.records()) == 1
    assert agents[0].calls.empty()


async def test_the_end_of_an_unknown_call_is_ignored(worker: Worker, url: str, agents: list[Agent]) -> None:
    with structlog.testing.capture_logs() as lines:
        answer = await send_event(url, event(call("terminate")))
    assert (answer.status, answer.json) == (200, {"status": "ignored"})
    assert [line["event"] for line in lines if "whatsapp" in line["event"]] == ["whatsapp event ignored"]
    assert await worker.records() == []
    assert all(agent.calls.empty() for agent in agents)


async def test_a_caller_who_hangs_up_while_the_agent_starts(
    worker: Worker, url: str, agents: list[Agent]
) -> None:
    may_answer = asyncio.Event()

    async def is_slow(agent: Agent, received: AgentCall) -> None:
        await may_answer.wait()
        await agrees(agent, received)

    agents[0].answer = is_slow
    connecting = asyncio.create_task(send_event(url, event(call("connect"))))
    await eventually(lambda: agents[0].upgrades, "the agent hears of it")
    reason = asyncio.create_task(send_event(url, event(call("terminate"))))
    may_answer.set()
    assert (await connecting).status == (await reason).status == 200
    (record,) = await worker.records()
    assert (await worker.over(record.session_id)).state is SessionState.ENDED


async def test_a_call_that_begins_and_ends_in_one_event(
    worker: Worker, url: str, agents: list[Agent]
) -> None:
    assert (await send_event(url, event(call("connect"), call("terminate")))).status == 200
    assert (await worker.over((await next_whatsapp_event(agents[0])).session)).state is SessionState.ENDED
    assert agents[0].calls.empty()


async def test_an_event_about_two_calls_reaches_both_instances(
    worker: Worker, url: str, agents: list[Agent]
) -> None:
    assert (
        await send_event(url, event(call("connect", "wacid.1"), call("connect", "wacid.2")))
    ).status == 200
    sessions = {(await next_whatsapp_event(agent)).session for agent in agents}
    assert len(sessions) == 2
    await eventually(lambda: len(worker.services.active) == 2, "both are held")


async def test_the_second_of_two_calls_fails(worker: Worker, url: str, agents: list[Agent]) -> None:
    agents[1].answer = answers(500)
    answer = await send_event(url, event(call("connect", "wacid.1"), call("connect", "wacid.2")))
    assert answer.status == 502
    await eventually(lambda: len(worker.services.active) == 1, "the first is held")
    assert [record.call_id for record in await worker.records() if record.active] == ["wacid.1"]
    agents[1].answer = agrees
    assert (
        await send_event(url, event(call("connect", "wacid.1"), call("connect", "wacid.2")))
    ).status == 200
    assert agents[0].calls.qsize() == agents[1].calls.qsize() == 1
