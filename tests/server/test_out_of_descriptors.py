# SPDX-License-Identifier: BSD-2-Clause
"""A worker that may open nothing more: new callers are told so, those that are there go on."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.server.fd_reserve import RESERVED_FDS
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import (
    assert_both_hear,
    assert_ended,
    assert_next_call_works,
    connect,
    hang_up,
)
from tests.harness.caller import Caller, dial, open_socket
from tests.harness.certificates import issue_certificate, trust_anything
from tests.harness.gateway import Gateway
from tests.harness.open_files import episodes, few_files, no_files
from tests.harness.transcripts import opening

ROOM = 12
"""Files that are left when others begin to take them."""

MORE = 6
"""So many more are taken: some that were counted may have been closed just then."""

OVERLOADED, TOO_SLOW = b"HTTP/1.1 503 Service Unavailable", b"HTTP/1.1 408 Request Timeout"
TOLD, OVER = "no more open files: new calls are refused", "there are open files again"


@pytest.fixture(scope="module")
def settings(support_port: AgentPort) -> dict[str, Any]:
    """lone.acme has one place and a line, at the same instance."""
    lone = {"name": "lone", "organization": "acme", "instances": [support_port.url], "queue_size": 1}
    return {
        "support": {"sessions_per_instance": 4},
        "limits": {"instance_failures": 1, "handshake_timeout": 30.0, "ping_interval": 0},
        "organizations": [{"name": "acme", "public_keys": ["pk_acme"]}],
        "agents": [lone],
    }


async def hold(gateway: Gateway, count: int, until: AsyncExitStack) -> list[asyncio.StreamReader]:
    """So many connections that say nothing."""
    readers = []
    for _ in range(count):
        reader, writer = await open_socket(gateway.port)
        until.callback(lambda one: one.transport.abort(), writer)  # which closes when nobody knows it
        readers.append(reader)
    return readers


async def refused(gateway: Gateway, **how: Any) -> None:
    """A new caller is told at once that it cannot be."""
    caller: Caller = await dial(gateway.port, "/ws/twilio/support.acme", **how)
    assert caller.refusal == (503, "overloaded")
    assert caller.json["error"] == "no more open files"
    assert caller.headers["retry-after"] == "5"
    await caller.leave()


async def over(gateway: Gateway, count: int) -> dict[str, Any]:
    """There are files again, told once, as was that there were none: for the `count`th time."""
    lines = await eventually(
        lambda: told if len(told := episodes(gateway)) == 2 * count else None, "there are files again"
    )
    assert [line["event"] for line in lines] == [TOLD, OVER] * count
    found: dict[str, Any] = lines[-1]
    return found


async def test_new_callers_are_refused_and_running_calls_go_on(gateway: Gateway, support: Agent) -> None:
    before = len(episodes(gateway))
    call, other = [await connect(gateway, support) for _ in range(2)]
    async with AsyncExitStack() as held:
        with few_files(gateway, ROOM) as room:
            await hold(gateway, room + MORE, held)
            await eventually(lambda: len(episodes(gateway)) > before, "it is told")
            for _ in range(5):
                await refused(gateway)
            assert gateway.get("/livez") == (200, {"status": "alive"})
            assert gateway.get("/readyz")[0] == 200
            await assert_both_hear(call)
            await hang_up(other)
            await assert_ended(gateway, other.session, "caller_hangup", "caller")
            await assert_both_hear(call)
            assert len(episodes(gateway)) == before + 1
    told = await over(gateway, before // 2 + 1)
    assert told["refused"] == 5
    await assert_next_call_works(gateway, support)
    await assert_both_hear(call)
    await hang_up(call)


async def test_who_comes_when_even_the_last_are_taken(gateway: Gateway, support: Agent) -> None:
    """Whoever says nothing has a second then; and who finds nothing left is told so without being heard."""
    before = len(episodes(gateway))
    call = await connect(gateway, support)
    async with AsyncExitStack() as held:
        with few_files(gateway, ROOM) as room:
            await hold(gateway, room + MORE, held)
            await eventually(lambda: len(episodes(gateway)) > before, "it is told")
            silent = await hold(gateway, RESERVED_FDS + 10, held)
            async with asyncio.timeout(WAIT_S):
                answers = [(await reader.read()).partition(b"\r\n")[0] for reader in silent]
            # Those for whom there is nothing left in the same turn of the loop are closed by libuv.
            assert set(answers) - {b""} == {OVERLOADED, TOO_SLOW}
            await refused(gateway)
            await assert_both_hear(call)
    told = await over(gateway, before // 2 + 1)
    assert told["refused"] == answers.count(OVERLOADED) + 1
    await hang_up(call)
    await assert_next_call_works(gateway, support)


async def test_behind_tls(
    start_gateway: Callable[..., Gateway], support: Agent, support_port: AgentPort, tmp_path: Path
) -> None:
    certificate, key = issue_certificate(tmp_path, 1)
    gateway = start_gateway(
        server={"tls_certificate": str(certificate), "tls_key": str(key)},
        agents=[{"name": "support", "organization": "acme", "instances": [support_port.url]}],
    )
    call = await connect(gateway, support, tls=trust_anything())
    async with AsyncExitStack() as held:
        with few_files(gateway, ROOM) as room:
            await hold(gateway, room + MORE, held)
            await eventually(lambda: episodes(gateway), "it is told")
            await refused(gateway, tls=trust_anything())
            await assert_both_hear(call)
    await over(gateway, 1)
    await hang_up(call)


# Nothing is left for the agent's connection: the gateway's fault, not the agent's


@asynccontextmanager
async def none_left(gateway: Gateway) -> AsyncIterator[None]:
    """Ends once the gateway has told of it: until then nobody could say when it is over."""
    with no_files(gateway):
        yield
        await eventually(lambda: len(episodes(gateway)) % 2 == 1, "it is told")


@pytest.fixture
async def blameless(gateway: Gateway, support: Agent) -> Any:
    """Whatever happened, the one instance is as ready as it was, and takes the next call."""
    await eventually(lambda: seen(gateway) == "ready", "the instance is seen as ready")
    before = len(gateway.log_lines())
    yield
    await gateway.callers_leave()
    await eventually(lambda: len(episodes(gateway)) % 2 == 0, "there are files again")
    await assert_next_call_works(gateway, support)
    since = gateway.log_lines()[before:]
    assert not [line for line in since if line["event"] == "instance set aside"]
    assert {line["readiness"] for line in since if line["event"] == "instance"} <= {"ready", "starting"}


def seen(gateway: Gateway) -> str:
    said = [line["readiness"] for line in gateway.log_lines() if line["event"] == "instance"]
    return said[-1] if said else ""


@pytest.mark.usefixtures("blameless")
async def test_none_for_a_call_whose_agent_starts(gateway: Gateway, support: Agent) -> None:
    support.ready = 503
    await eventually(lambda: seen(gateway) == "starting", "the instance is seen as starting")
    caller = await gateway.dial("/ws/twilio/support.acme")
    for message in opening("twilio"):
        caller.say(message)
    (record,) = await eventually(
        lambda: [one for one in gateway.sessions() if one["ended_at"] is None], "it has its place"
    )
    async with none_left(gateway):
        assert (await caller.closed())[0] == 1013
        ended = await assert_ended(gateway, record["id"], "overloaded", "gateway")
        assert ended["detail"] == "there is nothing left to ask the agent with"
    support.ready = 200
    await eventually(lambda: seen(gateway) == "ready", "the instance is seen as ready")


@pytest.mark.usefixtures("blameless")
async def test_none_for_a_call_that_gets_its_place(gateway: Gateway, support: Agent) -> None:
    first = await connect(gateway, support, "/ws/twilio/lone.acme")
    waiting = await gateway.dial("/ws/twilio/lone.acme")
    for message in opening("twilio"):
        waiting.say(message)
    (line,) = await eventually(
        lambda: [one for one in gateway.log_lines() if one["event"] == "call waits for a place"], "it waits"
    )
    async with none_left(gateway):
        await hang_up(first)
        assert (await waiting.closed())[0] == 1013
        ended = await assert_ended(gateway, line["session"], "overloaded", "gateway")
        assert ended["detail"].endswith("failed: too many open files")
        await assert_ended(gateway, first.session, "caller_hangup", "caller")


@pytest.mark.usefixtures("blameless")
async def test_none_for_a_request(gateway: Gateway, support: Agent) -> None:
    """Over a connection that was there before: a start, and a request to a session's instance."""
    call = await connect(gateway, support)
    requests = [
        ("POST", "/v1/public/support/start"),
        ("GET", f"/v1/public/support/sessions/{call.session}/x"),
    ]
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)) as client:
        client.request("GET", "/livez")
        client.getresponse().read()
        async with none_left(gateway):
            for method, path in requests:
                headers = {"Authorization": "Bearer pk_acme", "Content-Type": "application/json"}
                client.request(method, path, "{}" if method == "POST" else None, headers)
                answer = await asyncio.to_thread(client.getresponse)
                assert (answer.status, json.loads(answer.read())["code"]) == (503, "overloaded")
                assert answer.headers["Retry-After"] == "5"
    await hang_up(call)
