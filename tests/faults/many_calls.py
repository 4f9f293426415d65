# SPDX-License-Identifier: BSD-2-Clause
"""Many calls at once, and gateways of a single case."""

from __future__ import annotations

from typing import Any

from tests.faults.case import Case
from tests.faults.conversation import Conversation
from tests.faults.suite_settings import warmed
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_ended
from tests.harness.gateway import Gateway

CROWD = "/ws/twilio/crowd.acme"
CALLS = 12
"""A number of calls whose audio a test on a busy machine can send and receive in time."""

TURN_FRAMES = 25
"""Half a second of frames that show that a call continues."""

WELL = "`caller_hangup` (caller)"


async def crowd(fault: Case, agent: Agent, calls: int = CALLS) -> list[Conversation]:
    return [await fault.talk(agent, CROWD) for _ in range(calls)]


async def go_on(talks: list[Conversation], frames: int = TURN_FRAMES) -> None:
    """Wait until each caller and each agent has received `frames` more frames."""
    for talk in talks:
        assert talk.recorder.close is None, talk.recorder.close
    for recorder, heard in [
        (recorder, recorder.audio_frames)
        for talk in talks
        for recorder in (talk.recorder, talk.agent_recorder)
    ]:
        await recorder.until(heard + frames)


async def hang_up_all(fault: Case, gateway: Gateway, talks: list[Conversation], heard: str) -> None:
    """Note the longest gap of all, and hang up every call."""
    for talk in talks:
        fault.note_received(talk.recorder, with_close=False)
    fault.heard = heard
    for talk in talks:
        await talk.hang_up()
        await assert_ended(gateway, talk.session, "caller_hangup", "caller")


def owner_of(gateway: Gateway, session: str) -> Any:
    """Return the worker that carries a session."""
    return gateway.sessions(session)[0]["owner"]


def over(gateway: Gateway, session: str) -> dict[str, Any] | None:
    """Return the record of a session if it has ended."""
    (record,) = gateway.sessions(session)
    return record if record["ended_at"] is not None else None


async def warm_with(agent: Agent, gateway: Gateway, bases: dict[int, int], port: AgentPort) -> int:
    """Return what `warmed` does, while the test's agent is stopped."""
    await agent.stop()
    before = await warmed(gateway, bases, port)
    await agent.start()
    return before
