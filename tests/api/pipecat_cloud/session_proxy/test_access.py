# SPDX-License-Identifier: BSD-2-Clause
"""What streams through the Session API ends with its session, and with its client's key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import WAIT_S, eventually
from tests.api.pipecat_cloud.session_proxy.conftest import Client, Heard
from tests.harness.agent import Agent, AgentPort
from tests.harness.caller import dial


async def streams(heard: Heard) -> None:
    """Begin an answer, and never end it."""
    heard.say("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"5\r\nfirst\r\n")
    await heard.gone()


async def holds(heard: Heard) -> None:
    """Read the request, and do not answer."""
    await heard.gone()


async def new_key(door: Any) -> tuple[str, str]:
    """Make a public key through the store. Return the key and its id."""
    record, key = await door.wiring.calls.api_keys.create("acme", "public", "web site")
    return key, record.id


async def revoke(door: Any, key_id: str) -> None:
    assert await door.wiring.calls.api_keys.revoke("acme", key_id) is not None


async def streaming(door: Any, session: str, key: str = "pk_acme") -> tuple[Client, Any, Heard]:
    """Ask for an answer that does not end; return it once its first piece has come."""
    door.instance.script = streams
    client = await door.begin("GET", door.path(session), key=key)
    reply = await client.head()
    assert await client.reader.readuntil(b"first\r\n") == b"5\r\nfirst\r\n"
    return client, reply, await door.instance.next()


async def assert_broken_off(client: Client) -> None:
    async with asyncio.timeout(WAIT_S):
        assert await client.reader.read() == b"", "without the end of the body"


async def test_a_streamed_answer_ends_with_its_session(door: Any) -> None:
    session, other = await door.session(), await door.session()
    client, _, _ = await streaming(door, session)
    another, _, _ = await streaming(door, other)
    await door.end(session)
    await assert_broken_off(client)
    assert not another.reader.at_eof(), "another session's goes on"
    await door.end(other)
    await assert_broken_off(another)
    await door.nothing_is_left()


async def test_a_request_without_an_answer_ends_with_its_session(door: Any) -> None:
    session = await door.session()
    door.instance.script = holds
    client = await door.begin("POST", door.path(session), "Content-Length: 2", body=b"ok")
    await door.instance.next()
    await door.end(session)
    assert (await client.answer()).refusal == (404, "404")
    await door.nothing_is_left()


async def test_a_streamed_answer_ends_when_its_key_is_revoked(door: Any) -> None:
    session = await door.session()
    key, key_id = await new_key(door)
    client, _, _ = await streaming(door, session, key)
    another, _, _ = await streaming(door, session)
    await revoke(door, key_id)
    await assert_broken_off(client)
    assert not another.reader.at_eof(), "another key's goes on"
    another.writer.close()
    await door.nothing_is_left()


async def test_a_request_without_an_answer_is_401_when_its_key_is_revoked(door: Any) -> None:
    session = await door.session()
    key, key_id = await new_key(door)
    door.instance.script = holds
    client = await door.begin("GET", door.path(session), key=key)
    await door.instance.next()
    await revoke(door, key_id)
    assert (await client.answer()).status == 401
    await door.nothing_is_left()


@pytest.fixture
def agent_port_of_test() -> Any:
    port = AgentPort()
    yield port
    port.free()


async def test_a_websocket_ends_when_its_key_is_revoked(
    door: Any, agent_at: Callable[..., Any], agent_port_of_test: AgentPort
) -> None:
    agent: Agent = await agent_at(agent_port_of_test)
    session = await door.session(instance=agent.port.url)
    key, key_id = await new_key(door)
    sockets = []
    for each in (key, "pk_acme"):
        headers = {"Authorization": f"Bearer {each}"}
        caller = await dial(door.port, door.path(session, "/live"), headers=headers)
        assert caller.status == 101
        sockets.append((caller, await agent.call()))
    (caller, taken), (other, other_taken) = sockets
    await revoke(door, key_id)
    assert await caller.closed() == (1008, "the key was revoked")
    assert (await taken.closed())[0] in (1000, 1011)
    other.say("still there")
    assert (await other_taken.hear()).payload == b"still there"
    for socket in (caller, other):
        await socket.leave()
    await door.nothing_is_left()


async def test_a_key_that_is_revoked_by_another_worker(door: Any) -> None:
    """The store is all that two workers share."""
    session = await door.session()
    key, key_id = await new_key(door)
    client, _, _ = await streaming(door, session, key)
    await eventually(lambda: door.wiring.calls.key_events.waiters == 1, "the key is watched")
    async with door.another_worker() as other:
        assert await other.revoke("acme", key_id) is not None
        await assert_broken_off(client)
    await door.nothing_is_left()
