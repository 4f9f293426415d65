# SPDX-License-Identifier: BSD-2-Clause
"""Calls to started agents whose signed document comes before the stream: the instance starts meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import AgentPort
from tests.harness.caller import Caller
from tests.harness.document_calls import (
    DocumentCalls,
    Server,
    accounts,
    carrier_running,
    opening_of_call,
    servers,
)
from tests.harness.gateway import Gateway
from tests.harness.rest_server import Placed
from tests.pool.conftest import lines, logged


@pytest.fixture(scope="module")
def carrier_servers(agent_port: Callable[[], AgentPort]) -> dict[str, Server]:
    return servers(agent_port)


@pytest.fixture(scope="module")
def ready_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent is ready once this file exists."""
    return tmp_path_factory.mktemp("ready") / "ready"


@pytest.fixture(scope="module")
def gateway(
    start_pool: Callable[..., Gateway],
    pool_agent: Callable[..., dict[str, Any]],
    carrier_servers: dict[str, Server],
    ready_file: Path,
) -> Gateway:
    return start_pool(
        pool_agent("cold", f"ready-after={ready_file}", max_agents=1, hold="ringback"),
        pool_agent("later", max_agents=1, admit_at="stream"),
        pool_agent("brief", max_agents=1, cooldown=0),
        organizations=[{"name": "acme", "carriers": accounts(carrier_servers)}],
        server={"public_url": "https://voice.example.com"},
    )


@pytest.fixture
async def line(gateway: Gateway, carrier_servers: dict[str, Server]) -> AsyncIterator[DocumentCalls]:
    async with carrier_running(gateway, carrier_servers, "twilio") as documented:
        yield documented


async def place(line: DocumentCalls, name: str) -> Placed:
    """A call's document is requested."""
    return await line.place(f"/xml/twilio?agent={name}&org=acme")


async def dial(line: DocumentCalls, placed: Placed) -> Caller:
    """The call's stream is opened."""
    caller = await line.dial(placed.stream_url)
    assert caller.status == 101, caller.body
    for message in opening_of_call("twilio", placed.call_id):
        caller.say(message)
    return caller


async def heard(caller: Caller, text: bytes) -> int:
    """Listen until the agent says this; return how many messages came before."""
    messages = 0
    while text not in (await caller.hear()).payload:
        messages += 1
    return messages


def sessions_of(line: DocumentCalls, placed: Placed) -> list[dict[str, Any]]:
    return [one for one in line.gateway.sessions() if one["call_id"] == placed.call_id]


async def test_the_instance_starts_with_the_document_and_the_caller_is_held_until_it_is_ready(
    line: DocumentCalls, ready_file: Path
) -> None:
    placed = await place(line, "cold")
    (started,) = await logged(line.gateway, "instance is started", "cold")
    (session,) = sessions_of(line, placed)
    assert (session["state"], session["instance"]) == ("starting", started["instance"])
    assert session["start_type"] == "cold"
    caller = await dial(line, placed)
    assert b'"media"' in (await caller.hear()).payload, "the hold sound"
    ready_file.touch()
    await heard(caller, b"instance ")
    await caller.hang_up()
    await eventually(lambda: sessions_of(line, placed)[0]["ended_at"], "the call ends")
    (session,) = sessions_of(line, placed)
    assert (session["reason"], session["start_type"]) == ("caller_hangup", "cold")
    warm = await place(line, "cold")
    await heard(await dial(line, warm), b"instance ")
    assert sessions_of(line, warm)[0]["start_type"] == "warm"
    assert len(lines(line.gateway, "instance is started", "cold")) == 1


async def test_with_admit_at_stream_nothing_starts_before_the_stream(line: DocumentCalls) -> None:
    placed = await place(line, "later")
    assert sessions_of(line, placed) == []
    assert lines(line.gateway, "instance is started", "later") == []
    await heard(await dial(line, placed), b"instance ")
    assert len(lines(line.gateway, "instance is started", "later")) == 1


async def test_a_call_without_a_stream_gives_its_instance_back(line: DocumentCalls) -> None:
    placed = await place(line, "brief")
    await logged(line.gateway, "instance is started", "brief")
    over = {"CallSid": placed.call_id, "CallStatus": "completed"}
    answered = await line.server.post(line.url("/callbacks/twilio?agent=brief&org=acme"), over)
    assert answered.status == 200
    (given_back,) = await logged(line.gateway, "slot given back", "brief")
    assert given_back["reason"] == "call_canceled"
    await logged(line.gateway, "instance is stopped", "brief")
