# SPDX-License-Identifier: BSD-2-Clause
"""Ends that are no fail-over, though an agent was lost or closed (docs/resume.md)."""

from __future__ import annotations

import asyncio

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentCall, hangs, upgrade_response
from tests.harness.agent_failover import first_call, next_agent_takes_over, next_call_of_any
from tests.harness.api_requests import stop_session
from tests.harness.call_assertions import Call, assert_ended
from tests.harness.caller import Caller
from tests.harness.frames import close_frame
from tests.harness.gateway import Gateway
from tests.harness.transcripts import talk

MEDIA = talk("twilio")[0]


@pytest.mark.parametrize(
    ("code", "why"),
    [(1000, "agent_ended"), (1001, "agent_ended"), (1011, "agent_failed"), (4000, "agent_failed")],
)
async def test_a_close_frame_ends_the_call(
    gateway: Gateway, agents: list[Agent], code: int, why: str
) -> None:
    call, *_ = await first_call(gateway, agents)
    call.agent.send(call.agent.close_frame(code))
    call.agent.half_close()
    assert await call.caller.closed() == (code, "")
    record = await assert_ended(gateway, call.session, why, "agent")
    assert record["resumed"] == 0


async def test_the_next_agent_takes_over_and_closes(gateway: Gateway, agents: list[Agent]) -> None:
    async def accepts_and_closes(agent: Agent, call: AgentCall) -> None:
        call.send(upgrade_response(call) + close_frame(1000, "no bot today"))

    call, _, other = await first_call(gateway, agents)
    other.answer = accepts_and_closes
    call.agent.reset()
    assert await call.caller.closed() == (1000, "no bot today")
    await assert_ended(gateway, call.session, "agent_ended", "agent")


async def test_a_client_without_a_dialect_has_nothing_to_replay(
    gateway: Gateway, agents: list[Agent]
) -> None:
    taking = asyncio.create_task(next_call_of_any(agents))
    caller = await gateway.dial("/ws/generic/support.acme")
    _, taken = await taking
    taken.reset()
    assert (await caller.closed())[0] == 1011
    await assert_ended(gateway, taken.session, "agent_lost", "agent")


async def caller_waits(gateway: Gateway, agents: list[Agent]) -> tuple[Call, AgentCall, Caller]:
    """A caller whose agent is lost, while the next one hangs."""
    call, own, other = await first_call(gateway, agents)
    own.answer = other.answer = hangs
    call.agent.reset()
    return call, await other.next_other_call(), call.caller


@pytest.mark.parametrize(
    ("how", "why", "side"),
    [
        ("hang_up", "caller_hangup", "caller"),
        ("reset", "carrier_lost", "carrier"),
        ("half_close", "carrier_lost", "carrier"),
    ],
)
async def test_the_caller_hangs_up_while_another_agent_is_connected(
    gateway: Gateway, agents: list[Agent], how: str, why: str, side: str
) -> None:
    call, offered, caller = await caller_waits(gateway, agents)
    if how == "hang_up":
        assert (await caller.hang_up())[0] == 1000
    else:
        getattr(caller, how)()
    assert await offered.ended() == b""
    record = await assert_ended(gateway, call.session, why, side)
    assert record["resumed"] == 0
    (end,) = [line for line in gateway.ends() if line["session"] == call.session]
    assert (end["level"], end["without_agent"] > 0) == ("warning", True), "it is not as if all had been well"


async def test_the_session_is_stopped_while_another_agent_is_connected(
    gateway: Gateway, agents: list[Agent]
) -> None:
    call, offered, caller = await caller_waits(gateway, agents)
    assert await asyncio.to_thread(stop_session, gateway, call.session) == 200
    assert (await caller.closed())[0] == 1000
    assert await offered.ended() == b""
    await assert_ended(gateway, call.session, "stopped", "gateway")


async def test_the_caller_breaks_the_protocol_while_another_agent_is_connected(
    gateway: Gateway, agents: list[Agent]
) -> None:
    call, offered, caller = await caller_waits(gateway, agents)
    caller.send(caller.frame(0x3, b"?"))
    assert (await caller.closed())[0] == 1002
    assert await offered.ended() == b""
    await assert_ended(gateway, call.session, "carrier_protocol_error", "carrier")


async def test_agent_and_caller_leave_at_the_same_time(gateway: Gateway, agents: list[Agent]) -> None:
    over: list[str] = []
    for _ in range(10):
        call, *_ = await first_call(gateway, agents, but_not=over)
        call.agent.reset()
        call.caller.reset()
        ended = await eventually(
            lambda session=call.session: [one for one in gateway.sessions(session) if one["reason"]],
            "it ends",
        )
        assert ended[0]["reason"] in ("carrier_lost", "agent_lost")
        over.append(call.session)


async def test_the_longest_duration_counts_from_the_beginning(gateway: Gateway, agents: list[Agent]) -> None:
    """A call does not get more time with each agent (how much: tests/media/test_second_relay.py)."""
    call, _, other = await first_call(gateway, agents, agent="brief")
    call.agent.reset()
    second = await next_agent_takes_over(other, call)
    assert await call.caller.closed() == (1000, "5 s")
    assert await second.closed() == (1000, "5 s")
    await assert_ended(gateway, call.session, "max_duration", "gateway")
