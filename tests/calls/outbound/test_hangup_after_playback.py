# SPDX-License-Identifier: BSD-2-Clause
"""Playback before a hang-up, and the agent after a transfer, whichever way frames are relayed."""

from __future__ import annotations

import json
from typing import Any

from tests.harness.agent import Agent, AgentPort
from tests.harness.coupling_fixtures import coupling, start_gateway, tables  # noqa: F401 - fixtures
from tests.harness.frames import PING, PONG
from tests.harness.transcripts import replies, talk


async def start_talk(outbound: Any, support: Agent) -> tuple[str, Any, Any, Any]:
    session, phone = await outbound.dial("twilio")
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    await agent.opening(opening)
    await outbound.wait_for_agent(session, phone)
    for _ in range(3):
        caller.say(talk("twilio")[0])
        await agent.hear()
        agent.say(replies("twilio")[0])
        await caller.hear()
    return session, phone, caller, agent


async def test_the_last_audio_is_played_before_the_hang_up(
    outbound: Any, support: Agent, support_port: AgentPort, coupling: tuple[str, str]
) -> None:
    session, phone, caller, agent = await start_talk(outbound, support)
    agent.say(replies("twilio")[0])
    assert (await agent.hang_up(1000, "bye"))[0] == 1000
    assert json.loads((await caller.hear()).payload)["event"] == "media"
    mark = json.loads((await caller.hear()).payload)
    caller.send(caller.frame(PING, b"there?"))
    assert (await caller.hear()).opcode == PONG
    caller.say(talk("twilio")[0])
    assert not phone.hung_up
    caller.say(json.dumps(mark))
    assert (await caller.closed())[0] == 1000
    await caller.ended()
    assert phone.hung_up
    record = await outbound.ended(session)
    assert (record["reason"], record["frames_out"]) == ("agent_ended", 4)


async def test_the_agents_socket_stays_open_after_a_transfer(
    outbound: Any, support: Agent, coupling: tuple[str, str]
) -> None:
    session, phone, caller, agent = await start_talk(outbound, support)
    status, _ = await outbound.post(f"/v1/sessions/{session}/call/transfer", {"to": "+14155550177"})
    assert status == 200
    assert (await caller.closed())[0] == 1000
    for number in range(3):
        agent.say(replies("twilio")[0])
        agent.send(agent.frame(PING, str(number).encode()))
        received = await agent.hear()
        assert (received.opcode, received.payload) == (PONG, str(number).encode())
    await outbound.post(f"/v1/sessions/{session}/stop")
    await agent.closed()
    assert (await outbound.ended(session))["reason"] == "transferred"
    assert not phone.hung_up


async def test_an_agent_that_fails_does_not_hang_up(
    outbound: Any, support: Agent, coupling: tuple[str, str]
) -> None:
    session, phone, caller, agent = await start_talk(outbound, support)
    agent.send(agent.close_frame(1011, "broken"))
    assert await caller.closed() == (1011, "broken")
    assert (await outbound.ended(session))["reason"] == "agent_failed"
    assert not phone.hung_up
