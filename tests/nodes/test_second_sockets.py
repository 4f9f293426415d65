# SPDX-License-Identifier: BSD-2-Clause
"""A carrier's second socket that comes to another machine than the one that has the call."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, answers
from tests.harness.carrier_reconnect import opening
from tests.harness.document_calls import DocumentCalls, Server, carrier_running
from tests.harness.frames import BINARY
from tests.harness.gateway import Gateway
from tests.harness.rest_server import Placed
from tests.nodes.two_nodes import TravellingCall, ask, call_at, lines_of

CARRIERS = ("telnyx", "plivo")
"""Those that dial again by themselves."""


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def line(
    nodes: tuple[Gateway, Gateway],
    gateways: list[Gateway],
    carrier_servers: dict[str, Server],
    carrier: str,
) -> AsyncIterator[DocumentCalls]:
    async with carrier_running(nodes[0], carrier_servers, carrier) as documented:
        yield documented
        for gateway in gateways:
            await gateway.callers_leave()


async def test_a_call_goes_on_whichever_machine_its_socket_comes_to(
    nodes: tuple[Gateway, Gateway], line: DocumentCalls, support: Agent
) -> None:
    """The agent is never asked again. Each socket takes the place of one that is open."""
    east, west = nodes
    call = await call_at(east, line, support)
    for gateway in (west, east, west, west):
        await call.goes_on_at(gateway)
        await call.both_hear()
    await call.hangs_up()
    assert support.upgrades == 1
    await eventually(lambda: len(lines_of(west, "tunnel ended", call_id=call.placed.call_id)) == 3, "all end")


async def test_a_call_waits_for_its_next_socket_at_any_machine(
    nodes: tuple[Gateway, Gateway], line: DocumentCalls, support: Agent
) -> None:
    """The first socket is lost without a close, then the one that came through the other machine."""
    east, west = nodes
    call = await call_at(east, line, support)
    for gateway in (west, west):
        call.caller.reset()
        await call.is_lost()
        await call.goes_on_at(gateway)
        await call.both_hear()
    call.caller.half_close()
    await call.caller.ended()
    await call.is_lost()
    await call.goes_on_at(east)
    await call.hangs_up()


async def test_the_call_s_end_reaches_a_carrier_at_another_machine(
    nodes: tuple[Gateway, Gateway], line: DocumentCalls, support: Agent
) -> None:
    """A stop that comes to the machine with the socket goes to the one with the call, and back as a close."""
    east, west = nodes
    call = await call_at(east, line, support)
    await call.goes_on_at(west)
    status, session = await ask(west, "GET", f"/v1/sessions/{call.session}")
    assert (status, session["status"]) == (200, "running")
    assert (await ask(west, "POST", f"/v1/sessions/{call.session}/stop"))[0] == 200
    assert (await call.caller.closed())[0] == 1000
    assert (await call.agent.closed())[0] == 1000
    await call.is_over("stopped")


async def test_a_second_socket_of_a_call_that_cannot_go_on_takes_it_over(
    nodes: tuple[Gateway, Gateway], line: DocumentCalls, support: Agent
) -> None:
    """Its sound is in another format. It becomes a session of its own, at the machine that it came to."""
    if line.carrier != "telnyx":
        pytest.skip("its openings name no format")
    east, west = nodes
    call = await call_at(east, line, support)
    there = DocumentCalls(west, line.server, line.carrier)
    caller = await there.dial(call.placed.stream_url)
    messages = opening(line.carrier, call.placed.call_id, "stream-2")
    sent = [caller.say(message.replace("PCMU", "PCMA")) for message in messages]
    await call.is_over("taken_over")
    second = await support.call()
    await second.opening(sent)
    assert second.session != call.session
    await caller.hang_up()
    await eventually(lambda: lines_of(west, "call ended", session=second.session), "it is over")


@pytest.mark.parametrize("carrier", ["telnyx"], indirect=True)
async def test_a_machine_that_drains_waits_for_what_it_passes_on(
    start_node: Callable[..., Gateway],
    nodes: tuple[Gateway, Gateway],
    line: DocumentCalls,
    support: Agent,
) -> None:
    east, _ = nodes
    leaving = start_node()
    call = await call_at(east, line, support)
    await call.goes_on_at(leaving)
    leaving.terminate()
    await eventually(lambda: leaving.get("/readyz")[0] == 503, "it drains")
    await call.both_hear()
    assert leaving.process.poll() is None
    await call.goes_on_at(east)
    assert await leaving.ended() == 0
    await call.both_hear()
    await call.hangs_up()


@pytest.mark.parametrize("carrier", ["telnyx"], indirect=True)
async def test_a_machine_whose_time_to_drain_is_over_lets_go_of_what_it_passes_on(
    start_node: Callable[..., Gateway],
    nodes: tuple[Gateway, Gateway],
    line: DocumentCalls,
    support: Agent,
) -> None:
    """So does one that is killed: the call goes on at the next socket."""
    east, _ = nodes
    for leave in ("terminate", "kill"):
        leaving = start_node({"drain_timeout": 0.2})
        call = await call_at(east, line, support)
        await call.goes_on_at(leaving)
        if leave == "terminate":
            leaving.terminate()
            assert await leaving.ended() == 0
        else:
            leaving.process.kill()
            await eventually(lambda: leaving.process.poll() is not None, "it is dead")  # noqa: B023
        await call.is_lost()
        await call.goes_on_at(east)
        await call.both_hear()
        await call.hangs_up()


@pytest.mark.parametrize("carrier", ["telnyx"], indirect=True)
async def test_a_draining_machine_takes_the_next_socket_of_its_call_at_another(
    start_node: Callable[..., Gateway],
    nodes: tuple[Gateway, Gateway],
    line: DocumentCalls,
    support: Agent,
) -> None:
    _, west = nodes
    leaving = start_node()
    call = await call_at(leaving, line, support)
    leaving.terminate()
    await eventually(lambda: leaving.get("/readyz")[0] == 503, "it drains")
    await call.goes_on_at(west)
    await call.both_hear()
    assert (await ask(west, "POST", f"/v1/sessions/{call.session}/stop"))[0] == 200
    assert (await call.agent.closed())[0] == 1000
    assert await leaving.ended() == 0
    await call.is_over("stopped")


@pytest.mark.parametrize("carrier", ["telnyx"], indirect=True)
async def test_a_killed_machine_s_call_ends_at_the_carrier_s_socket_elsewhere(
    start_node: Callable[..., Gateway],
    nodes: tuple[Gateway, Gateway],
    line: DocumentCalls,
    support: Agent,
) -> None:
    _, west = nodes
    doomed = start_node()
    call = await call_at(doomed, line, support)
    await call.goes_on_at(west)
    doomed.process.kill()
    await call.caller.ended()
    lost = [lambda node=node: lines_of(node, "session_lost", session=call.session) for node in nodes]
    await eventually(lambda: any(told() for told in lost), "one of the others has ended the session")
    doomed.upgrades = doomed.continued  # no line tells of the call.s end


@pytest.mark.parametrize("carrier", ["telnyx"], indirect=True)
async def test_while_a_gateway_replaces_another_both_calls_are_reached_at_one_address(
    start_node: Callable[..., Gateway],
    gateways: list[Gateway],
    nodes: tuple[Gateway, Gateway],
    line: DocumentCalls,
    support: Agent,
    tmp_path: Path,
) -> None:
    _, west = nodes
    old = start_node()
    call = await call_at(old, line, support)
    settings = tomllib.loads((old.directory / "patchbay.toml").read_text())
    new = await asyncio.to_thread(Gateway, tmp_path, settings, replace=old)
    gateways.append(new)
    await new.ready()
    await eventually(lambda: lines_of(new, "the port is taken over"), "the new one has the port")
    await call.goes_on_at(west)
    await call.both_hear()
    await call.goes_on_at(new)  # which passes it within the machine
    await call.both_hear()
    status, shown = await ask(west, "GET", f"/v1/sessions/{call.session}")
    assert (status, shown["node"]) == (200, settings["server"]["node_url"])
    assert (await ask(west, "POST", f"/v1/sessions/{call.session}/stop"))[0] == 200
    await call.is_over("stopped")
    assert await old.ended() == 0
    second = await call_at(new, line, support)
    await second.goes_on_at(west)
    await second.both_hear()
    await second.hangs_up()


@pytest.mark.parametrize("carrier", ["plivo"], indirect=True)
async def test_a_call_is_hung_up_through_the_other_machine_and_a_refused_transfer_is_taken_back(
    nodes: tuple[Gateway, Gateway], line: DocumentCalls, support: Agent
) -> None:
    """The machine that has the call knows before the carrier does: its end has the right reason."""
    east, west = nodes
    call = await call_at(east, line, support)
    await call.goes_on_at(west)
    path = f"/v1/sessions/{call.session}/call"
    status, answer = await ask(west, "POST", f"{path}/transfer", {"to": "+14155550177"})
    assert (status, answer["error"]["code"]) == (409, "call_not_active"), "the carrier knows no such call"
    await call.both_hear()
    assert (await ask(west, "POST", f"{path}/hangup", {}))[0] == 200
    call.caller.send(call.caller.close_frame(1000))  # as the carrier does then
    await call.is_over("hung_up")


@pytest.mark.parametrize("carrier", ["telnyx"], indirect=True)
async def test_the_session_api_reaches_the_agent_from_any_machine(
    nodes: tuple[Gateway, Gateway], line: DocumentCalls, support: Agent
) -> None:
    """Requests go to the instance itself, whichever machine has the session."""
    east, west = nodes
    call = await call_at(east, line, support)
    support.answer = answers(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\ntrue"
    )
    path = f"/v1/public/support/sessions/{call.session}/notes"
    assert await ask(west, "POST", path, {"text": "hello"}, key="pk_acme") == (200, True)
    await call.hangs_up()
    assert (await ask(west, "POST", path, {"text": "late"}, key="pk_acme"))[0] in (404, 410)


@pytest.mark.parametrize("carrier", ["telnyx"], indirect=True)
@pytest.mark.parametrize("loss", ["noticed", "unnoticed"])
async def test_a_client_with_a_token_goes_on_at_another_machine(
    nodes: tuple[Gateway, Gateway], line: DocumentCalls, support: Agent, loss: str
) -> None:
    """Also where its old socket seems open still: the machine with the call pings it, and nothing comes."""
    east, west = nodes
    status, started = await ask(
        east, "POST", "/v1/public/support/start", {"transport": "websocket"}, key="pk_acme"
    )
    assert status == 200
    target = f"/ws/generic/support.acme?token={started['token']}"
    caller = await east.dial(target)
    call = TravellingCall("generic", line, east, Placed("", None, None, {}), caller, await support.call())
    if loss == "noticed":
        caller.reset()
        await call.is_lost()
    again = await west.dial(target)
    assert again.status == 101, again.body
    west.upgrades -= 1  # no line there tells of the call's end
    east.upgrades += 1
    again.send(again.frame(BINARY, b"from the client"))
    assert (await call.agent.hear()).payload == b"from the client"
    call.agent.say("from the agent")
    assert (await again.hear()).payload == b"from the agent"
    again.send(again.close_frame(1000))
    assert (await call.agent.closed())[0] == 1000
    await call.is_over("caller_hangup")
