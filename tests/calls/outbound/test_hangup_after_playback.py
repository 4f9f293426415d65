# SPDX-License-Identifier: BSD-2-Clause
"""The last words and the kept agent, whichever way the two legs are coupled."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.agent import Agent, AgentPort
from tests.harness.frames import PING, PONG
from tests.harness.gateway import Gateway
from tests.harness.transcripts import replies, talk

COUPLINGS = {"in C": ("on", "bytes"), "in Python": ("off", "bytes"), "through messages": ("on", "messages")}


@pytest.fixture(scope="module", params=COUPLINGS)
def coupling(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = COUPLINGS[request.param]
    return found


@pytest.fixture(scope="module")
def tables(coupling: tuple[str, str]) -> dict[str, Any]:
    return {"support": {"media": coupling[1]}}


@pytest.fixture(scope="module")
def start_gateway(start_gateway: Callable[..., Gateway], coupling: tuple[str, str]) -> Callable[..., Gateway]:
    def start(**tables: Any) -> Gateway:
        return start_gateway(accelerator=coupling[0], **tables)

    return start


async def talk_to(office: Any, support: Agent) -> tuple[str, Any, Any, Any]:
    session, phone = await office.dial("twilio")
    caller, said = await phone.opens(office.gateway, await phone.answered())
    agent = await support.call()
    await agent.opening(said)
    await office.streaming(session, phone)
    for _ in range(3):
        caller.say(talk("twilio")[0])
        await agent.hear()
        agent.say(replies("twilio")[0])
        await caller.hear()
    return session, phone, caller, agent


async def test_the_last_words_are_played(
    office: Any, support: Agent, support_port: AgentPort, coupling: tuple[str, str]
) -> None:
    session, phone, caller, agent = await talk_to(office, support)
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
    record = await office.over(session)
    assert (record["reason"], record["frames_out"]) == ("agent_ended", 4)


async def test_an_agent_is_kept(office: Any, support: Agent, coupling: tuple[str, str]) -> None:
    session, phone, caller, agent = await talk_to(office, support)
    status, _ = await office.post(f"/v1/sessions/{session}/call/transfer", {"to": "+14155550177"})
    assert status == 200
    assert (await caller.closed())[0] == 1000
    for number in range(3):
        agent.say(replies("twilio")[0])
        agent.send(agent.frame(PING, str(number).encode()))
        heard = await agent.hear()
        assert (heard.opcode, heard.payload) == (PONG, str(number).encode())
    await office.post(f"/v1/sessions/{session}/stop")
    await agent.closed()
    assert (await office.over(session))["reason"] == "transferred"
    assert not phone.hung_up


async def test_an_agent_that_fails_hangs_nobody_up(
    office: Any, support: Agent, coupling: tuple[str, str]
) -> None:
    session, phone, caller, agent = await talk_to(office, support)
    agent.send(agent.close_frame(1011, "broken"))
    assert await caller.closed() == (1011, "broken")
    assert (await office.over(session))["reason"] == "agent_failed"
    assert not phone.hung_up
