# SPDX-License-Identifier: BSD-2-Clause
"""The Session API of the real gateway: while a call runs, and on every worker."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentCall, AgentPort, accepts
from tests.harness.call_assertions import Call, connect, hang_up
from tests.harness.caller import dial
from tests.harness.gateway import Gateway

KEY: dict[str, str | None] = {"Authorization": "Bearer pk_acme"}


RECORDING_BYTES = 200 * (1 << 20)
MOST_BYTES = 30 * (1 << 20)
"""By how much a worker may grow meanwhile."""


@pytest.fixture(scope="module")
def port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


@pytest.fixture(scope="module", params=[1, 2])
def gateway(start_gateway: Callable[..., Gateway], port: AgentPort, request: Any) -> Gateway:
    return start_gateway(
        server={"workers": request.param},
        organizations=[{"name": "acme", "public_keys": ["pk_acme"]}],
        agents=[
            {
                "name": "support",
                "organization": "acme",
                "instances": [port.url],
                "sessions_per_instance": 1,
            }
        ],
    )


async def answers_or_accepts(agent: Agent, call: AgentCall) -> None:
    """A route of the customer's own beside the socket."""
    if "upgrade" in call.headers:
        await accepts(agent, call)
        return
    if call.path == "/recording":
        call.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % RECORDING_BYTES)
        piece = bytes(1 << 16)
        for _ in range(RECORDING_BYTES // len(piece)):
            await call.pour(piece)
        return
    if call.path == "/half":
        call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        call.half_close()
        return
    if call.path == "/for-ever":
        call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        agent.other_calls.put_nowait(call)
        return
    detail = f"{call.path} of {call.session}".encode()
    call.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nSet-Cookie: a=b\r\n\r\n%s" % (len(detail), detail))


@pytest.fixture
async def call(gateway: Gateway, port: AgentPort, agent_at: Callable[..., Any]) -> Any:
    agent: Agent = await agent_at(port, answers_or_accepts)
    found = await connect(gateway, agent)
    await eventually(lambda: gateway.sessions(found.session)[0]["state"] == "running", "it runs")
    yield found, agent
    await gateway.callers_leave()
    await eventually(lambda: gateway.status()["sessions"]["active"] == 0, "the place is free")


def ask(gateway: Gateway, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    try:
        connection.request("GET", path, headers={"Authorization": "Bearer pk_acme"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def test_a_route_of_the_agent_while_the_call_runs(gateway: Gateway, call: tuple[Call, Agent]) -> None:
    session = call[0].session
    for _ in range(8):  # by whichever worker takes it
        answer = await asyncio.to_thread(ask, gateway, f"/v1/public/support/sessions/{session}/who?x=1")
        assert answer == (200, f"/who?x=1 of {session}".encode())


async def test_a_passage_lasts_as_long_as_the_call(gateway: Gateway, call: tuple[Call, Agent]) -> None:
    running, agent = call
    target = f"/v1/public/support/sessions/{running.session}/live"
    passages = []
    for _ in range(4):
        passage = await dial(gateway.port, target, headers=KEY)
        assert passage.status == 101
        taken = await agent.call()
        assert (taken.path, taken.session) == ("/live", running.session)
        said = passage.say("hello")
        assert await taken.hear_bytes(len(said)) == said
        passages.append((passage, taken))
    await hang_up(running)
    for ends in passages:
        for end in ends:
            assert await end.closed() == (1000, "the session is over")
    for passage, _ in passages:
        await passage.leave()
    lines = await eventually(
        lambda: [line for line in gateway.log_lines() if line["event"] == "passage ended"], "it is logged"
    )
    assert {line["session"] for line in lines} == {running.session}
    status, _ = await asyncio.to_thread(ask, gateway, target)
    assert status == 404


async def test_a_large_answer_does_not_pile_up(gateway: Gateway, call: tuple[Call, Agent]) -> None:
    if len(gateway.workers()) > 1:
        pytest.skip("its memory is that of the parent, which carries nothing")
    reader, writer = await begin(gateway, call[0].session, "/recording")
    left = RECORDING_BYTES
    before = gateway.resident_bytes
    while left:
        left -= len(await reader.read(min(left, 1 << 16)))
    assert gateway.resident_bytes - before < MOST_BYTES
    writer.close()


async def test_half_an_answer_does_not_look_whole(gateway: Gateway, call: tuple[Call, Agent]) -> None:
    reader, writer = await begin(gateway, call[0].session, "/half")
    async with asyncio.timeout(WAIT_S):
        assert await reader.read() == b"4\r\nhalf\r\n"
    writer.close()
    lines = await eventually(
        lambda: [line for line in gateway.log_lines() if line["event"] == "answer broken off"], "it is logged"
    )
    assert lines[0]["reason"] == "agent_lost"


async def test_the_instance_notices_at_once_that_a_client_is_gone(
    gateway: Gateway, call: tuple[Call, Agent]
) -> None:
    running, agent = call
    _, writer = await begin(gateway, running.session, "/for-ever")
    asked = await agent.next_other_call()
    writer.close()
    async with asyncio.timeout(WAIT_S):
        assert await asked._reader.read() == b""


async def begin(
    gateway: Gateway, session: str, path: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request of which the answer's head is there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    target = f"/v1/public/support/sessions/{session}{path}"
    writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer pk_acme\r\n\r\n".encode())
    async with asyncio.timeout(WAIT_S):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    return reader, writer
