# SPDX-License-Identifier: BSD-2-Clause
"""Sessions of every kind whose agent does not run yet: its instance is started, and they wait for it."""

from __future__ import annotations

import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import AgentPort
from tests.harness.api_requests import api_request
from tests.harness.callees import next_callee, server_of
from tests.harness.caller import Caller
from tests.harness.gateway import Gateway
from tests.harness.rest_accounts import CREDENTIALS
from tests.harness.transcripts import opening
from tests.pool.conftest import lines, logged


@pytest.fixture(scope="module")
def carrier_port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


@pytest.fixture(scope="module")
def ready_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent `dialed` is ready once this file exists."""
    return tmp_path_factory.mktemp("ready") / "ready"


@pytest.fixture(scope="module")
def sorry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 60 ms."""
    path = tmp_path_factory.mktemp("sounds") / "sorry.wav"
    with wave.open(str(path), "wb") as recording:
        recording.setparams((1, 2, 8000, 0, "NONE", ""))
        recording.writeframes(b"\x00\x10" * 480)
    return path


@pytest.fixture(scope="module")
def gateway(
    start_pool: Callable[..., Gateway],
    pool_agent: Callable[..., dict[str, Any]],
    carrier_port: AgentPort,
    ready_file: Path,
    sorry: Path,
) -> Gateway:
    account = {"carrier": "twilio", "api_url": server_of("twilio", carrier_port, "").api_url}
    acme = {"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme"]}
    acme |= {"dial_prefixes": ["+1415"], "dial_per_minute": 100}
    return start_pool(
        pool_agent("dialed", f"ready-after={ready_file}", max_agents=1),
        pool_agent("held"),
        pool_agent("queued", max_agents=1, queue_size=2, hold="ringback", organization="globex"),
        pool_agent(
            "sorry", "never-ready", start_limit=0.5, fallback=str(sorry), hold="none", organization="globex"
        ),
        pool_agent("elsewhere", "never-ready", start_limit=0.5, fallback="+14155550177", max_agents=1),
        organizations=[{**acme, "carriers": [account | CREDENTIALS["twilio"]]}, {"name": "globex"}],
        server={"public_url": "https://voice.example.com"},
    )


@pytest.fixture
async def post(gateway: Gateway) -> AsyncIterator[Callable[..., Any]]:
    """A request of the public API."""
    headers = {"Authorization": "Bearer pk_acme"}
    timeout = aiohttp.ClientTimeout(total=WAIT_S)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as client:

        async def send(path: str, value: dict[str, Any]) -> dict[str, Any]:
            async with client.post(f"{gateway.url}/v1/public/{path}", json=value) as answer:
                assert answer.status == 200, await answer.text()
                return dict(await answer.json())

        yield send


async def heard(caller: Caller, text: bytes) -> int:
    """Listen until the agent says this; return how many messages came before."""
    messages = 0
    while text not in (await caller.hear()).payload:
        messages += 1
    return messages


def ends_of(gateway: Gateway, agent: str) -> list[dict[str, Any]]:
    return [end for end in gateway.ends() if end.get("agent") == agent]


async def test_a_session_without_a_transport_starts_its_agent(
    gateway: Gateway, post: Callable[..., Any]
) -> None:
    started = await post("held/start", {"body": {"customer": 4711}})
    (session,) = gateway.sessions(started["sessionId"])
    assert session["start_type"] == "cold"
    assert len(lines(gateway, "instance is started", "held")) == 1
    assert session["state"] == "running"
    assert api_request(gateway, "DELETE", f"/v1/agents/held/sessions/{started['sessionId']}") == 200
    await eventually(lambda: gateway.sessions(started["sessionId"])[0]["ended_at"], "it ends")
    assert gateway.sessions(started["sessionId"])[0]["reason"] == "stopped"


async def test_a_telephone_rings_while_the_agent_starts(
    gateway: Gateway, post: Callable[..., Any], carrier_port: AgentPort, ready_file: Path
) -> None:
    """Whoever answers before it is ready waits for it."""
    server = await server_of("twilio", carrier_port, f"http://127.0.0.1:{gateway.port}").start()
    try:
        dialed = await post(
            "dialed/dialout", {"carrier": "twilio", "to": "+14155550142", "from": "+14155550199"}
        )
        phone = await next_callee("twilio", server)
        await logged(gateway, "instance is started", "dialed")
        caller, _ = await phone.opens(gateway, await phone.answered())
        assert caller.status == 101, caller.body
        attached = await eventually(
            lambda: [one for one in gateway.sessions(dialed["sessionId"]) if one["stream_id"]], "it has it"
        )
        assert attached[0]["state"] == "starting"
        ready_file.touch()
        assert await heard(caller, b"instance ") == 0, "no ringback: the call has been answered"
        await caller.hang_up()
        await phone.over("completed")
        await eventually(lambda: gateway.sessions(dialed["sessionId"])[0]["ended_at"], "the call ends")
        (session,) = gateway.sessions(dialed["sessionId"])
        assert (session["reason"], session["start_type"]) == ("caller_hangup", "cold")
    finally:
        await server.stop()


async def test_where_no_more_may_be_started_a_call_is_queued(gateway: Gateway) -> None:
    async def place() -> Caller:
        caller = await gateway.dial("/ws/twilio/queued.globex")
        assert caller.status == 101, caller.body
        for message in opening("twilio"):
            caller.say(message)
        return caller

    first = await place()
    await heard(first, b"instance ")
    second = await place()
    assert b'"media"' in (await second.hear()).payload, "the hold sound"
    assert [one["state"] for one in gateway.sessions() if one["agent"] == "queued.globex"] == ["running"]
    await first.hang_up()
    await heard(second, b"instance ")
    assert len([line for line in gateway.log_lines() if line["event"] == "call waits for a place"]) == 1
    started = [line for line in gateway.log_lines() if line.get("agent") == "queued.globex"]
    assert len([line for line in started if line["event"] == "instance is started"]) == 1


async def test_where_no_agent_can_be_started_the_caller_hears_what_is_to_be_said_then(
    gateway: Gateway,
) -> None:
    caller = await gateway.dial("/ws/twilio/sorry.globex")
    for message in opening("twilio"):
        caller.say(message)
    assert b'"media"' in (await caller.hear()).payload
    assert (await caller.closed())[0] == 1011
    (end,) = await eventually(lambda: ends_of(gateway, "sorry.globex"), "the call ends")
    assert (end["event"], end["reason"]) == ("call not begun", "agent_start_timeout")
    assert end["words"].endswith("; its caller was told")


async def test_where_no_agent_can_be_started_the_caller_is_transferred(
    gateway: Gateway, post: Callable[..., Any], carrier_port: AgentPort
) -> None:
    server = await server_of("twilio", carrier_port, f"http://127.0.0.1:{gateway.port}").start()
    try:
        call = {"carrier": "twilio", "to": "+14155550142", "from": "+14155550199"}
        dialed = await post("elsewhere/dialout", call)
        phone = await next_callee("twilio", server)
        caller, _ = await phone.opens(gateway, await phone.answered())
        assert (await caller.closed())[0] == 1011
        (end,) = await eventually(lambda: ends_of(gateway, "elsewhere.acme"), "the call ends")
        assert (end["event"], end["session"]) == ("call not begun", dialed["sessionId"])
        assert end["words"].endswith("; its caller was transferred")
        (transfer,) = server.requests_of("update")
        assert "+14155550177" in str(transfer)
    finally:
        await server.stop()
