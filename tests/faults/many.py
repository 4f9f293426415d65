# SPDX-License-Identifier: BSD-2-Clause
"""Many calls at once, and gateways that a case has to itself."""

from __future__ import annotations

from typing import Any

from tests.faults.case import Case
from tests.faults.line import Talk
from tests.faults.setup import warmed
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_ended
from tests.harness.gateway import Gateway

CROWD = "/ws/twilio/crowd.acme"
CALLS = 12
"""A load that a test on a busy machine can speak and hear for at telephony's pace."""

TURN_FRAMES = 25
"""Half a second in which calls are seen to go on."""

WELL = "`caller_hangup` (caller)"


async def crowd(fault: Case, agent: Agent, calls: int = CALLS) -> list[Talk]:
    return [await fault.talk(agent, CROWD) for _ in range(calls)]


async def go_on(talks: list[Talk], frames: int = TURN_FRAMES) -> None:
    """Each caller and each agent hears so many more frames."""
    for talk in talks:
        assert talk.ear.close is None, talk.ear.close
    for ear, heard in [(ear, ear.sounds) for talk in talks for ear in (talk.ear, talk.agents_ear)]:
        await ear.until(heard + frames)


async def hang_up_all(fault: Case, gateway: Gateway, talks: list[Talk], heard: str) -> None:
    """Keeps the longest gap of all, and ends every call as the caller does."""
    for talk in talks:
        fault.hears(talk.ear, told=False)
    fault.heard = heard
    for talk in talks:
        await talk.hang_up()
        await assert_ended(gateway, talk.session, "caller_hangup", "caller")


def owner_of(gateway: Gateway, session: str) -> Any:
    """The worker that carries a session."""
    return gateway.sessions(session)[0]["owner"]


def over(gateway: Gateway, session: str) -> dict[str, Any] | None:
    """The record of a session that has ended."""
    (record,) = gateway.sessions(session)
    return record if record["ended_at"] is not None else None


async def warm_with(agent: Agent, gateway: Gateway, bases: dict[int, int], port: AgentPort) -> int:
    """As `warmed`, for tests in which the agent is there already."""
    await agent.stop()
    before = await warmed(gateway, bases, port)
    await agent.start()
    return before
