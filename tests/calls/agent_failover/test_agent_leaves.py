# SPDX-License-Identifier: BSD-2-Clause
"""An agent whose connection ends without a close frame: it left the call, or it died (docs/resume.md).

Servers made with Starlette end so when a handler returns, or raises, without closing its WebSocket.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentCall, AgentPort, accepts, upgrade_response
from tests.harness.agent_failover import (
    first_call,
    hang_up_resumed,
    logged_health,
    lose_agent,
    next_agent_takes_over,
    next_call_of_any,
    resumes,
)
from tests.harness.call_assertions import assert_caller_heard, assert_ended
from tests.harness.caller import Caller
from tests.harness.frames import BINARY, TEXT
from tests.harness.gateway import Gateway
from tests.harness.transcripts import CARRIERS, opening, replies

LEFT = "it ended its connection without a close frame"
SPACING_S = 0.5


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_an_agent_that_ends_its_connection_has_ended_the_call(
    gateway: Gateway, agents: list[Agent], carrier: str
) -> None:
    call, own, other = await first_call(gateway, agents, carrier)
    await assert_caller_heard(call.caller, [call.agent.say(replies(carrier)[0])])
    upgrades = own.upgrades + other.upgrades
    call.agent.half_close()
    assert await call.caller.closed() == (1000, LEFT)
    record = await assert_ended(gateway, call.session, "agent_ended", "agent")
    assert (record["state"], record["resumed"]) == ("ended", 0)
    assert own.upgrades + other.upgrades == upgrades, "no agent is run for it again"


async def raw_call(gateway: Gateway, agents: list[Agent]) -> tuple[Caller, Agent, AgentCall]:
    """Begin a call with an agent of raw sound, which says 20 s at once."""
    caller = await gateway.dial("/ws/twilio/raw.acme")
    for message in opening("twilio"):
        caller.say(message)
    own, call = await next_call_of_any(agents)
    call.send(call.frame(BINARY, bytes(20 * 16000)))
    return caller, own, call


async def seconds_heard(caller: Caller, until: str) -> float:
    """Read until a message of the gateway's has this name or mark; return the seconds of sound."""
    heard = 0
    while True:
        frame = await caller.hear()
        message = json.loads(frame.payload)
        if message["event"] == until:
            return heard / 8000
        heard += len(base64.b64decode(message["media"]["payload"]))


async def test_an_agent_of_raw_sound_that_leaves_is_heard_to_its_last_word(
    gateway: Gateway, agents: list[Agent]
) -> None:
    caller, _, call = await raw_call(gateway, agents)
    call.half_close()
    assert await seconds_heard(caller, "mark") == 20
    caller.say(json.dumps({"event": "mark", "sequenceNumber": "9", "mark": {"name": "patchbay:end"}}))
    assert (await caller.closed())[0] == 1000
    await assert_ended(gateway, call.session, "agent_ended", "agent")


async def test_what_a_dead_agent_of_raw_sound_had_left_to_say_is_not_heard(
    gateway: Gateway, agents: list[Agent]
) -> None:
    """The next one begins anew, and the caller does not wait for it."""
    caller, own, call = await raw_call(gateway, agents)
    assert json.loads((await caller.hear()).payload)["event"] == "media"
    await lose_agent(call, own)
    (other,) = (each for each in agents if each is not own)
    second = await other.call()
    assert second.session == call.session
    await eventually(lambda: resumes(gateway, call.session), "another agent has the call")
    second.send(second.frame(BINARY, bytes(1600)))
    second.send(second.frame(TEXT, b'{"event":"mark","name":"greeted"}'))
    assert await seconds_heard(caller, "mark") < 5
    await caller.hang_up()


async def test_a_client_of_ones_own_whose_agent_ends_its_connection(
    gateway: Gateway, agents: list[Agent]
) -> None:
    caller = await gateway.dial("/ws/generic/alone.acme")
    call = await agents[0].call()
    call.half_close()
    assert await caller.closed() == (1000, LEFT)
    await assert_ended(gateway, call.session, "agent_ended", "agent")


async def test_an_agent_that_is_not_ready_for_another_call_still_answers(
    gateway: Gateway, agents: list[Agent]
) -> None:
    """As one that is busy with the end of this call."""
    call, own, _ = await first_call(gateway, agents)
    own.ready = 503
    call.agent.half_close()
    assert await call.caller.closed() == (1000, LEFT)
    await assert_ended(gateway, call.session, "agent_ended", "agent")


async def test_an_agent_whose_process_has_ended_is_replaced(gateway: Gateway, agents: list[Agent]) -> None:
    call, own, other = await first_call(gateway, agents)
    await lose_agent(call.agent, own)
    second = await next_agent_takes_over(other, call)
    (line,) = await eventually(lambda: resumes(gateway, call.session), "it is logged")
    assert line["words"] == ("its connection ended, and the instance does not answer; resumed 1 of 2 times")
    assert (line["lost_instance"], line["instance"]) == (own.port.url, other.port.url)
    assert line["lasted"] >= 0
    await hang_up_resumed(gateway, call, second)


@pytest.mark.parametrize("status", [502, 504])
async def test_an_agent_that_only_its_proxy_answers_for_is_replaced(
    gateway: Gateway, agents: list[Agent], status: int
) -> None:
    call, own, other = await first_call(gateway, agents)
    own.ready = status
    call.agent.half_close()
    second = await next_agent_takes_over(other, call)
    await hang_up_resumed(gateway, call, second)


async def test_an_agent_that_freezes_as_it_ends_its_connection_is_replaced(
    gateway: Gateway, agents: list[Agent]
) -> None:
    call, own, other = await first_call(gateway, agents)
    own.ready = None
    call.agent.half_close()
    second = await next_agent_takes_over(other, call)
    await hang_up_resumed(gateway, call, second)


async def test_a_reset_is_an_end_too_for_agents_that_stop_reading_before_they_leave(
    gateway: Gateway, agents: list[Agent]
) -> None:
    """`resume_after_reset = false`: a system resets a connection that is closed with unread bytes."""
    call, own, _ = await first_call(gateway, agents, agent="unread")
    upgrades = own.upgrades
    call.agent.reset()
    assert await call.caller.closed() == (1000, LEFT)
    await assert_ended(gateway, call.session, "agent_ended", "agent")
    assert own.upgrades == upgrades
    call, own, _ = await first_call(gateway, agents, agent="unread")
    await own.stop_listening()
    call.agent.reset()
    assert (await call.caller.closed())[0] == 1011
    await assert_ended(gateway, call.session, "agent_lost", "agent")


async def test_the_next_agent_takes_over_and_ends_its_connection_at_once(
    gateway: Gateway, agents: list[Agent]
) -> None:
    async def accepts_and_leaves(agent: Agent, call: AgentCall) -> None:
        call.send(upgrade_response(call))
        call.half_close()

    call, _, other = await first_call(gateway, agents)
    other.answer = accepts_and_leaves
    call.agent.reset()
    assert await call.caller.closed() == (1000, LEFT)
    await assert_ended(gateway, call.session, "agent_ended", "agent")
    assert other.upgrades == 1


async def test_agents_that_are_lost_as_they_begin_do_not_begin_at_once_again(
    gateway: Gateway, agents: list[Agent]
) -> None:
    """The caller is not greeted twice in a breath, and the words say how often, where and how soon."""
    began: list[float] = []

    async def accepts_and_resets(agent: Agent, call: AgentCall) -> None:
        began.append(asyncio.get_running_loop().time())
        await accepts(agent, call)
        await call.next()
        call.reset()

    for each in agents:
        each.answer = accepts_and_resets
    caller = await gateway.dial("/ws/twilio/alone.acme")
    for message in opening("twilio"):
        caller.say(message)
    code, words = await caller.closed()
    assert code == 1011
    assert words.startswith("3 agents were lost on one instance, after 0.")
    assert len(began) == 3
    pauses = [later - earlier for earlier, later in itertools.pairwise(began)]
    # A hundredth for the time that an upgrade takes: an agent begins before the gateway knows of it.
    assert pauses[0] > SPACING_S - 0.1
    assert pauses[1] > 2 * SPACING_S - 0.1


async def test_an_agent_that_accepts_and_is_lost_at_once_counts_as_a_resume(
    gateway: Gateway, agents: list[Agent]
) -> None:
    call, own, _ = await first_call(gateway, agents, agent="alone")
    upgrades = own.upgrades

    async def accepts_and_is_gone(agent: Agent, call: AgentCall) -> None:
        call.send(upgrade_response(call))
        await call._writer.drain()
        call.reset()

    own.answer = accepts_and_is_gone
    call.agent.reset()
    assert (await call.caller.closed())[0] == 1011
    record = await assert_ended(gateway, call.session, "agent_lost", "agent")
    assert own.upgrades - upgrades <= 2, "max_resumes bounds how often an agent is run"
    assert record["state"] == "failed"


# Agents made with Starlette and uvicorn, as those of Pipecat's runner and base image are

WS = ["websockets", "websockets-sansio"]


class Greeter:
    """An agent that greets the caller and leaves, without closing its WebSocket."""

    def __init__(self, url: str, how: str) -> None:
        self.url = url
        self.runs = 0
        self._how = how

    async def serve(self, socket: WebSocket) -> None:
        await socket.accept()
        self.runs += 1
        for _ in range(2):
            await socket.receive_text()
        await socket.send_text(replies("twilio")[0])
        if self._how == "raises":
            raise RuntimeError("the bot failed")


@pytest.fixture
def no_reports() -> Iterator[None]:
    """Keep uvicorn's traceback of a handler that raises out of the test's output."""
    logger = logging.getLogger("uvicorn.error")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of uvicorn's older implementation
@pytest.mark.filterwarnings("ignore:The `websockets` implementation is deprecated")
@pytest.mark.usefixtures("no_reports")
@pytest.mark.parametrize("how", ["returns", "raises"])
@pytest.mark.parametrize("ws", WS)
async def test_a_starlette_handler_that_leaves_greets_its_caller_once(
    gateway: Gateway, ports: list[AgentPort], ws: Any, how: str
) -> None:
    greeter = Greeter(ports[0].url, how)
    app = Starlette(routes=[WebSocketRoute("/ws", greeter.serve)])
    server = uvicorn.Server(uvicorn.Config(app, ws=ws, lifespan="off", log_config=None))
    listening = ports[0].listen()
    serving = asyncio.create_task(server.serve([listening]))
    try:
        await eventually(lambda: server.started, "the agent listens")
        await eventually(lambda: logged_health(gateway, ports[0]) == "ready", "it is seen")
        caller = await gateway.dial("/ws/twilio/alone.acme")
        for message in opening("twilio"):
            caller.say(message)
        frame = await caller.hear()
        assert frame.payload.decode() == replies("twilio")[0]
        code, _ = await caller.closed()
        assert code in (1000, 1011)  # some of uvicorn's implementations close for the handler
        assert greeter.runs == 1
    finally:
        server.should_exit = True
        await serving
        listening.close()
