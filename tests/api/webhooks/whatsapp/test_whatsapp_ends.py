# SPDX-License-Identifier: BSD-2-Clause
"""WhatsApp calls that end otherwise than by a hang-up, or do not begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.api.webhooks.whatsapp import WHATSAPP
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentCall
from tests.harness.http_requests import serving
from tests.harness.start_api import Worker, running_worker
from tests.harness.whatsapp_events import agrees, answers, call, event, next_whatsapp_event, send_event

# How a call ends otherwise


async def test_a_call_that_is_stopped(worker: Worker, url: str, agents: list[Agent]) -> None:
    await send_event(url, event(call("connect")))
    session = (await next_whatsapp_event(agents[0])).session
    active = worker.services.active
    await eventually(lambda: active.terminate(session, CallEnded(Reasons.stopped)), "it is held")
    ended = await worker.over(session)
    assert (ended.state, ended.reason) == (SessionState.ENDED, "stopped")


async def test_a_call_that_is_too_long(tmp_path: Path, settings: dict[str, Any], agents: list[Agent]) -> None:
    settings["agents"][0]["max_session_duration"] = 1
    async with (
        running_worker(tmp_path / "short.db", settings) as worker,
        serving(worker, WHATSAPP) as address,
    ):
        await send_event(f"{address}/v1/public/webhooks/acme/support/whatsapp", event(call("connect")))
        (record,) = await worker.records()
        assert (await worker.over(record.session_id)).reason == "max_duration"


async def test_a_server_that_stops_ends_its_calls(worker: Worker, agents: list[Agent]) -> None:
    async with serving(worker, WHATSAPP) as address:
        await send_event(f"{address}/v1/public/webhooks/acme/support/whatsapp", event(call("connect")))
        session = (await next_whatsapp_event(agents[0])).session
    assert (await worker.over(session)).reason == "draining"


async def test_the_agent_refuses_a_call(worker: Worker, url: str, agents: list[Agent]) -> None:
    agents[0].answer = answers(401)
    answer = await send_event(url, event(call("connect")))
    assert (answer.status, answer.json["code"]) == (502, "agent_failed")
    await worker.assert_nothing_left()
    agents[0].answer = agrees
    assert (await send_event(url, event(call("connect")))).status == 200


async def test_the_agent_is_not_there(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings["limits"]["agent_connect_timeout"] = 0.5
    async with (
        running_worker(tmp_path / "hasty.db", settings) as worker,
        serving(worker, WHATSAPP) as address,
    ):
        url = f"{address}/v1/public/webhooks/acme/support/whatsapp"
        answer = await send_event(url, event(call("connect")))
        assert (answer.status, answer.json["code"]) == (502, "agent_unreachable")
        await worker.assert_nothing_left()


async def test_the_agent_does_not_answer(
    tmp_path: Path, settings: dict[str, Any], agents: list[Agent]
) -> None:
    async def says_nothing(agent: Agent, received: AgentCall) -> None:
        agent.other_calls.put_nowait(received)

    for agent in agents:
        agent.answer = says_nothing
    settings["limits"]["agent_connect_timeout"] = 0.2
    async with (
        running_worker(tmp_path / "hasty.db", settings) as worker,
        serving(worker, WHATSAPP) as address,
    ):
        url = f"{address}/v1/public/webhooks/acme/support/whatsapp"
        answer = await send_event(url, event(call("connect")))
        assert (answer.status, answer.json["code"]) == (504, "agent_start_timeout")
        await worker.assert_nothing_left()
        assert (await send_event(url, event())).json["code"] == "agent_stalled"


async def test_an_agent_that_misses_the_end_holds_no_slot(
    worker: Worker, url: str, agents: list[Agent]
) -> None:
    await send_event(url, event(call("connect")))
    session = (await next_whatsapp_event(agents[0])).session
    await agents[0].stop()
    assert (await send_event(url, event(call("terminate")))).status == 200
    assert (await worker.over(session)).state is SessionState.ENDED


async def test_a_draining_gateway_refuses_new_calls_and_ends_running_ones(
    worker: Worker, url: str, agents: list[Agent]
) -> None:
    await send_event(url, event(call("connect", "wacid.1")))
    worker.services.active.draining = True
    assert (await send_event(url, event(call("connect", "wacid.2")))).status == 503
    assert (await send_event(url, event(call("terminate", "wacid.1")))).status == 200
