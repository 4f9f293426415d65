# SPDX-License-Identifier: BSD-2-Clause
"""Several workers: one dies, and only its own calls end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import (
    Call,
    assert_agent_heard,
    assert_caller_heard,
    assert_ended,
    assert_refused,
    connect,
    hang_up,
)
from tests.harness.gateway import Gateway
from tests.harness.transcripts import replies, talk


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    agent |= {"sessions_per_instance": 2, "max_agents": 1}
    return start_gateway(server={"workers": 2}, agents=[agent], limits={"close_timeout": 0.5})


def owner_of(gateway: Gateway, call: Call) -> Any:
    return gateway.sessions(call.session)[0]["owner"]


async def one_call_on_each(gateway: Gateway, support: Agent) -> tuple[Call, Call]:
    """Two calls, each carried by another worker; they take both places."""
    first = await connect(gateway, support)
    while True:
        second = await connect(gateway, support)
        if owner_of(gateway, second) != owner_of(gateway, first):
            return first, second
        await hang_up(second)
        await assert_ended(gateway, second.session, "caller_hangup", "caller")


async def test_a_worker_is_killed(gateway: Gateway, support: Agent) -> None:
    doomed, lucky = await one_call_on_each(gateway, support)
    before = len(gateway.ends())
    full = await gateway.dial("/ws/generic/support.acme")
    assert full.refusal == (429, "at_capacity")
    await assert_refused(gateway, before, "at_capacity")  # told before its teller may be the one to die
    pids = {worker["id"]: worker["pid"] for worker in gateway.workers()}
    victim = pids[owner_of(gateway, doomed)]
    assert victim != gateway.process.pid
    os.kill(victim, signal.SIGKILL)
    gateway.upgrades -= 1  # it does not live to tell its call's end

    assert await doomed.caller.closed() == (1006, "")
    assert await doomed.agent.closed() == (1006, "")
    # The other's call goes on meanwhile.
    await assert_agent_heard(lucky.agent, [lucky.caller.say(message) for message in talk("twilio")])
    await assert_caller_heard(lucky.caller, [lucky.agent.say(message) for message in replies("twilio")])

    def lost() -> list[dict[str, Any]]:
        return [one for one in gateway.sessions(doomed.session) if one["ended_at"] is not None]

    (record,) = await eventually(lost, "the session of the dead worker is closed")
    assert (record["reason"], record["side"], record["state"]) == ("gateway_lost", "gateway", "failed")
    assert str(victim) in record["detail"]

    def told() -> list[dict[str, Any]]:
        return [line for line in gateway.log_lines() if line["event"] == "session_lost"]

    (line,) = await eventually(told, "it is told")
    assert (line["session"], line["detail"]) == (doomed.session, record["detail"])

    # Its place is free, and somebody stands in for it.
    third = await connect(gateway, support)
    await eventually(lambda: len(gateway.workers()) == 2, "a worker is started again")
    assert victim not in [worker["pid"] for worker in gateway.workers()]

    def died() -> list[int]:
        return [line["pid"] for line in gateway.log_lines() if line["event"].startswith("a worker died")]

    assert await eventually(died, "its death is told") == [victim]
    for call in (lucky, third):
        await hang_up(call)
        await assert_ended(gateway, call.session, "caller_hangup", "caller")


async def test_status_counts_the_calls_of_all_workers(gateway: Gateway, support: Agent) -> None:
    first, second = await one_call_on_each(gateway, support)
    await eventually(lambda: gateway.status()["sessions"]["by_state"]["running"] == 2, "both run")
    status = gateway.status()
    assert status["sessions"]["active"] == 2
    assert status["calls"] == 1, "of the worker that was asked"
    for call in (first, second):
        await hang_up(call)
        await assert_ended(gateway, call.session, "caller_hangup", "caller")


async def test_the_parent_is_killed(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, support: Agent
) -> None:
    """The workers notice, carry what they carry to its end, and go."""
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    gateway = start_gateway(server={"workers": 2, "drain_timeout": 60}, agents=[agent])
    call = await connect(gateway, support)
    gateway.process.kill()
    await eventually(lambda: len(gateway.workers()) == 1, "the idle worker leaves")
    await assert_agent_heard(call.agent, [call.caller.say(talk("twilio")[0])])
    await hang_up(call)
    await assert_ended(gateway, call.session, "caller_hangup", "caller")
    await eventually(lambda: gateway.workers() == [], "the last worker leaves")
