# SPDX-License-Identifier: BSD-2-Clause
"""A worker at its limit of descriptors: new calls are refused with 503, running calls continue."""

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
from tests.harness.prepared_process import patchbay_starts_anew  # noqa: F401 - a fixture
from tests.harness.transcripts import opening

ROOM = 12
"""Descriptors that are free before the test occupies them."""

MORE = 6
"""Further connections that are opened: some of the counted descriptors may have just been closed."""

OVERLOADED, TOO_SLOW = b"HTTP/1.1 503 Service Unavailable", b"HTTP/1.1 408 Request Timeout"
SHORT, OVER = "no more open files: new calls are refused", "there are open files again"


@pytest.fixture(scope="module")
def settings(support_port: AgentPort) -> dict[str, Any]:
    """Add lone.acme, which has one slot and a queue, on the same instance."""
    lone = {"name": "lone", "organization": "acme", "instances": [support_port.url], "queue_size": 1}
    return {
        "support": {"sessions_per_instance": 4},
        "limits": {"instance_failures": 1, "handshake_timeout": 30.0, "ping_interval": 0},
        "organizations": [{"name": "acme", "public_keys": ["pk_acme"]}],
        "agents": [lone],
    }


async def hold(gateway: Gateway, count: int, until: AsyncExitStack) -> list[asyncio.StreamReader]:
    """Open connections that send nothing, until `until` closes."""
    readers = []
    for _ in range(count):
        reader, writer = await open_socket(gateway.port)
        # The callback refers to the writer: a writer without references closes its connection.
        until.callback(lambda writer: writer.transport.abort(), writer)
        readers.append(reader)
    return readers


async def assert_refused(gateway: Gateway, **how: Any) -> None:
    """A new call is refused at once."""
    caller: Caller = await dial(gateway.port, "/ws/twilio/support.acme", **how)
    assert caller.refusal == (503, "overloaded")
    assert caller.json["error"] == "no more open files"
    assert caller.headers["retry-after"] == "5"
    await caller.leave()


async def assert_over(gateway: Gateway, count: int) -> dict[str, Any]:
    """Wait for the end of the `count`th shortage; its begin and end are logged once. Return the last line."""
    lines = await eventually(
        lambda: found if len(found := episodes(gateway)) == 2 * count else None, "the shortage is over"
    )
    assert [line["event"] for line in lines] == [SHORT, OVER] * count
    last: dict[str, Any] = lines[-1]
    return last


async def test_new_calls_are_refused_and_running_calls_continue(gateway: Gateway, support: Agent) -> None:
    before = len(episodes(gateway))
    call, other = [await connect(gateway, support) for _ in range(2)]
    async with AsyncExitStack() as stack:
        with few_files(gateway, ROOM) as room:
            await hold(gateway, room + MORE, stack)
            await eventually(lambda: len(episodes(gateway)) > before, "the shortage is logged")
            for _ in range(5):
                await assert_refused(gateway)
            assert gateway.get("/livez") == (200, {"status": "alive"})
            assert gateway.get("/readyz")[0] == 200
            await assert_both_hear(call)
            await hang_up(other)
            await assert_ended(gateway, other.session, "caller_hangup", "caller")
            await assert_both_hear(call)
            assert len(episodes(gateway)) == before + 1
    line = await assert_over(gateway, before // 2 + 1)
    assert line["refused"] == 5
    await assert_next_call_works(gateway, support)
    await assert_both_hear(call)
    await hang_up(call)


async def test_clients_that_connect_after_the_reserve_is_used_up(gateway: Gateway, support: Agent) -> None:
    """A silent client then has one second; if no descriptor is left, it is refused without being read."""
    before = len(episodes(gateway))
    call = await connect(gateway, support)
    async with AsyncExitStack() as stack:
        with few_files(gateway, ROOM) as room:
            await hold(gateway, room + MORE, stack)
            await eventually(lambda: len(episodes(gateway)) > before, "the shortage is logged")
            silent = await hold(gateway, RESERVED_FDS + 10, stack)
            async with asyncio.timeout(WAIT_S):
                answers = [(await reader.read()).partition(b"\r\n")[0] for reader in silent]
            # libuv closes a connection that finds no descriptor within the same iteration of the loop.
            assert set(answers) - {b""} == {OVERLOADED, TOO_SLOW}
            await assert_refused(gateway)
            await assert_both_hear(call)
    line = await assert_over(gateway, before // 2 + 1)
    assert line["refused"] == answers.count(OVERLOADED) + 1
    await hang_up(call)
    await assert_next_call_works(gateway, support)


async def test_new_calls_are_refused_behind_tls_too(
    start_gateway: Callable[..., Gateway], support: Agent, support_port: AgentPort, tmp_path: Path
) -> None:
    certificate, key = issue_certificate(tmp_path, 1)
    gateway = start_gateway(
        server={"tls_certificate": str(certificate), "tls_key": str(key)},
        agents=[{"name": "support", "organization": "acme", "instances": [support_port.url]}],
    )
    call = await connect(gateway, support, tls=trust_anything())
    async with AsyncExitStack() as stack:
        with few_files(gateway, ROOM) as room:
            await hold(gateway, room + MORE, stack)
            await eventually(lambda: episodes(gateway), "the shortage is logged")
            await assert_refused(gateway, tls=trust_anything())
            await assert_both_hear(call)
    await assert_over(gateway, 1)
    await hang_up(call)


async def test_handshakes_that_stop_give_their_descriptors_back(
    start_gateway: Callable[..., Gateway], support: Agent, support_port: AgentPort, tmp_path: Path
) -> None:
    certificate, key = issue_certificate(tmp_path, 1)
    gateway = start_gateway(
        server={"tls_certificate": str(certificate), "tls_key": str(key)},
        limits={"handshake_timeout": 600},
        agents=[{"name": "support", "organization": "acme", "instances": [support_port.url]}],
    )
    call = await connect(gateway, support, tls=trust_anything())
    async with AsyncExitStack() as stack:
        with few_files(gateway, ROOM) as room:
            silent = await hold(gateway, room + MORE, stack)
            await eventually(lambda: episodes(gateway), "the shortage is logged")
            async with asyncio.timeout(WAIT_S):
                assert {await reader.read() for reader in silent} == {b""}
            await assert_both_hear(call)
    await assert_over(gateway, 1)
    await hang_up(call)


# No descriptor is left for the connection to the agent: the gateway's fault, not the agent's.


@asynccontextmanager
async def no_descriptors(gateway: Gateway) -> AsyncIterator[None]:
    """Take all descriptors for a while, until the shortage is logged: a test waits for its end by the log."""
    with no_files(gateway):
        yield
        await eventually(lambda: len(episodes(gateway)) % 2 == 1, "the shortage is logged")


@pytest.fixture
async def instance_stays_ready(gateway: Gateway, support: Agent) -> Any:
    """After the test the instance is as ready as before, and takes the next call."""
    await eventually(lambda: last_health(gateway) == "ready", "the instance is seen as ready")
    before = len(gateway.log_lines())
    yield
    await gateway.callers_leave()
    await eventually(lambda: len(episodes(gateway)) % 2 == 0, "there are files again")
    await assert_next_call_works(gateway, support)
    since = gateway.log_lines()[before:]
    assert not [line for line in since if line["event"] == "instance set aside"]
    assert {line["readiness"] for line in since if line["event"] == "instance"} <= {"ready", "starting"}


def last_health(gateway: Gateway) -> str:
    states = [line["readiness"] for line in gateway.log_lines() if line["event"] == "instance"]
    return states[-1] if states else ""


@pytest.mark.usefixtures("instance_stays_ready")
async def test_a_call_whose_agent_is_starting_is_refused(gateway: Gateway, support: Agent) -> None:
    support.ready = 503
    await eventually(lambda: last_health(gateway) == "starting", "the instance is seen as starting")
    caller = await gateway.dial("/ws/twilio/support.acme")
    for message in opening("twilio"):
        caller.say(message)
    (record,) = await eventually(
        lambda: [one for one in gateway.sessions() if one["ended_at"] is None], "it has its slot"
    )
    async with no_descriptors(gateway):
        assert (await caller.closed())[0] == 1013
        ended = await assert_ended(gateway, record["id"], "overloaded", "gateway")
        assert ended["detail"] == "there is nothing left to ask the agent with"
    support.ready = 200
    await eventually(lambda: last_health(gateway) == "ready", "the instance is seen as ready")


@pytest.mark.usefixtures("instance_stays_ready")
async def test_a_queued_call_that_gets_its_slot_is_refused(gateway: Gateway, support: Agent) -> None:
    first = await connect(gateway, support, "/ws/twilio/lone.acme")
    waiting = await gateway.dial("/ws/twilio/lone.acme")
    for message in opening("twilio"):
        waiting.say(message)
    (line,) = await eventually(
        lambda: [one for one in gateway.log_lines() if one["event"] == "call waits for a place"], "it waits"
    )
    async with no_descriptors(gateway):
        await hang_up(first)
        assert (await waiting.closed())[0] == 1013
        ended = await assert_ended(gateway, line["session"], "overloaded", "gateway")
        assert ended["detail"].endswith("failed: too many open files")
        await assert_ended(gateway, first.session, "caller_hangup", "caller")


@pytest.mark.usefixtures("instance_stays_ready")
async def test_requests_that_need_the_agent_are_refused(gateway: Gateway, support: Agent) -> None:
    """On a connection that was open before: a start, and a request to a session's instance."""
    call = await connect(gateway, support)
    requests = [
        ("POST", "/v1/public/support/start"),
        ("GET", f"/v1/public/support/sessions/{call.session}/x"),
    ]
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)) as client:
        client.request("GET", "/livez")
        client.getresponse().read()
        async with no_descriptors(gateway):
            for method, path in requests:
                headers = {"Authorization": "Bearer pk_acme", "Content-Type": "application/json"}
                client.request(method, path, "{}" if method == "POST" else None, headers)
                answer = await asyncio.to_thread(client.getresponse)
                assert (answer.status, json.loads(answer.read())["code"]) == (503, "overloaded")
                assert answer.headers["Retry-After"] == "5"
    await hang_up(call)
