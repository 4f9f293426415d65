# SPDX-License-Identifier: BSD-2-Clause
"""A slot is free when its instance is: media sockets, and bots whose worker died (docs/api.md)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.api_requests import KEY, api_request, stop_session
from tests.harness.bot_requests import bot_of, holds
from tests.harness.call_assertions import assert_next_call_works, connect
from tests.harness.gateway import Gateway

LONG_S = 600


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {
        "organizations": [{"name": "acme", "public_keys": ["pk_acme"], "private_keys": [KEY]}],
        "limits": {"close_timeout": 0.3},
        "support": {"stop_timeout": LONG_S},
    }


def record_of(gateway: Gateway, session: str) -> dict[str, Any]:
    """Return the record of a session."""
    (record,) = gateway.sessions(session)
    return record


async def test_an_agent_that_answers_the_close_of_its_socket_is_free(
    gateway: Gateway, support: Agent
) -> None:
    call = await connect(gateway, support)
    assert await asyncio.to_thread(stop_session, gateway, call.session) == 200
    assert (await call.agent.closed())[0] == 1000
    await call.caller.closed()
    await assert_next_call_works(gateway, support)
    record = record_of(gateway, call.session)
    assert (record["state"], record["reason"]) == ("ended", "stopped")
    assert (record["released_by"], record["ending_at"]) == (None, None)


async def test_an_agent_that_does_not_answer_keeps_its_slot_until_it_is_ready_again(
    gateway: Gateway, support: Agent
) -> None:
    call = await connect(gateway, support)
    support.ready = None  # frozen: neither its socket nor its health is answered
    call.caller.send(call.caller.close_frame(1000))
    await eventually(lambda: record_of(gateway, call.session)["state"] == "ending", "its socket is given up")
    refused = await gateway.dial("/ws/generic/support.acme")
    assert refused.refusal == (429, "at_capacity")
    support.ready = 200
    await eventually(lambda: record_of(gateway, call.session)["ended_at"], "its slot is free")
    record = record_of(gateway, call.session)
    assert (record["state"], record["reason"], record["released_by"]) == ("ended", "caller_hangup", "ready")

    def freed() -> list[dict[str, Any]]:
        return [line for line in gateway.log_lines() if line["event"] == "instance is free again"]

    (line,) = await eventually(freed, "it is logged")
    assert (line["session"], line["released_by"]) == (call.session, "ready")
    await call.agent.leave()


async def test_a_bot_whose_worker_dies_keeps_its_slot(
    start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    port = agent_port()
    agent = await agent_at(port, holds)
    helper = {"name": "helper", "organization": "acme", "instances": [port.url], "stop_timeout": LONG_S}
    gateway = start_gateway(
        organizations=[{"name": "acme", "private_keys": [KEY]}], agents=[helper], server={"workers": 2}
    )
    wanted: Any = {"agent": "helper", "transport": {"type": "bot"}}
    assert await asyncio.to_thread(api_request, gateway, "POST", "/v1/sessions", wanted) == 201
    session = (await bot_of(agent)).session
    owner = record_of(gateway, session)["owner"]
    os.kill(next(worker["pid"] for worker in gateway.workers() if worker["id"] == owner), signal.SIGKILL)

    await eventually(lambda: record_of(gateway, session)["state"] == "ending", "its end is noticed")
    assert record_of(gateway, session)["reason"] == "gateway_lost"
    assert await asyncio.to_thread(api_request, gateway, "POST", "/v1/sessions", wanted) == 503
    await agent.stop()  # whoever watches it has ended it
    await eventually(lambda: record_of(gateway, session)["ended_at"], "its slot is free")
    record = record_of(gateway, session)
    assert (record["state"], record["released_by"]) == ("failed", "gone")
