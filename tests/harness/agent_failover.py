# SPDX-License-Identifier: BSD-2-Clause
"""Calls whose agent is lost and replaced (docs/resume.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentCall, AgentPort, accepts
from tests.harness.call_assertions import Call, assert_ended, hang_up
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening

RESUMED = "x-patchbay-resumed"


def logged_health(gateway: Gateway, port: AgentPort) -> str:
    """Return the latest health of an instance in the log, or an empty string."""
    changes = [line for line in gateway.log_lines() if line["event"] == "instance"]
    seen = [line["readiness"] for line in changes if line["instance"] == port.url]
    return seen[-1] if seen else ""


async def first_call(
    gateway: Gateway,
    agents: list[Agent],
    carrier: str = "twilio",
    agent: str = "support",
    *,
    but_not: Collection[str] = (),
) -> tuple[Call, Agent, Agent]:
    """Begin a call; return it, the instance that has it, and the other one.

    `but_not`: sessions that are over, for which the gateway may still have connected to an instance.
    """
    for each in agents:
        each.answer = accepts
    taking = asyncio.create_task(next_call_of_any(agents, but_not))
    caller = await gateway.dial(f"/ws/{carrier}/{agent}.acme")
    assert caller.status == 101, caller.body
    sent = [caller.say(message) for message in opening(carrier)]
    instance, taken = await taking
    if agent != "hidden":
        await taken.opening(sent)
    other = next(each for each in agents if each is not instance)
    return Call(caller, taken, sent), instance, other


async def next_call_of_any(agents: list[Agent], but_not: Collection[str] = ()) -> tuple[Agent, AgentCall]:
    """Wait until an instance has a call; return both."""
    found: list[tuple[Agent, AgentCall]] = []

    def any_has() -> bool:
        came = [(each, each.calls.get_nowait()) for each in agents if not each.calls.empty()]
        found.extend((each, call) for each, call in came if call.session not in but_not)
        return bool(found)

    await eventually(any_has, "an instance has the call")
    return found[0]


def resumes(gateway: Gateway, session: str) -> list[dict[str, Any]]:
    """Return the log lines of a session's changes of agent."""
    lines = gateway.log_lines()
    return [line for line in lines if line["event"] == "call resumed" and line["session"] == session]


async def assert_resumed(gateway: Gateway, session: str, times: int) -> None:
    """Assert that the session has changed its agent so often, by the log."""
    lines = await eventually(lambda: resumes(gateway, session)[times - 1 :], "it is logged")
    assert [line["times"] for line in resumes(gateway, session)] == list(range(1, times + 1))
    assert lines[0]["words"]


async def next_agent_takes_over(agent: Agent, call: Call, times: int = 1) -> AgentCall:
    """Wait until the next agent has the call: the same session, the same opening."""
    second = await agent.call()
    assert (second.session, second.headers[RESUMED]) == (call.session, str(times))
    assert second.path == call.agent.path
    await second.opening(call.opening)
    return second


async def lose_agent(call: AgentCall, instance: Agent) -> None:
    """Lose the agent as if its process had died, and wait until the gateway has noticed."""
    await instance.stop_listening()
    call.half_close()
    await call.ended()  # the gateway closes its socket too


async def hang_up_resumed(gateway: Gateway, call: Call, agent: AgentCall, times: int = 1) -> dict[str, Any]:
    """Hang up as the caller does; return the session's record."""
    await hang_up(Call(call.caller, agent, call.opening))
    record = await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert (record["resumed"], record["state"]) == (times, "ended")
    return record
