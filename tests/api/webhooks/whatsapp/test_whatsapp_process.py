# SPDX-License-Identifier: BSD-2-Clause
"""WhatsApp at the real gateway: a call's events reach any worker, and always the same instance."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import Callable
from typing import Any

import aiohttp

from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness import whatsapp_events as meta
from tests.harness.agent import AgentPort
from tests.harness.gateway import Gateway
from tests.harness.open_files import episodes, no_files


async def tell(gateway: Gateway, what: str, call_id: str = "wacid.1") -> int:
    """Meta tells of a call, on a connection of its own; the status of the answer."""
    url = f"http://127.0.0.1:{gateway.port}/v1/public/webhooks/acme/support/whatsapp"
    return (await meta.send_event(url, meta.event(meta.call(what, call_id)))).status


def settings(*ports: AgentPort, **server: Any) -> dict[str, Any]:
    instances = [port.url for port in ports]
    return {
        "organizations": [{"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme"]}],
        "organizations.whatsapp": {"app_secrets": [meta.SECRET]},
        "agents": [{"name": "support", "organization": "acme", "instances": instances}],
        "server": server,
    }


def states(gateway: Gateway) -> dict[str, str]:
    return {row["call_id"]: row["state"] for row in gateway.sessions()}


async def test_every_worker_knows_where_a_call_is(
    start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    ports = [agent_port(), agent_port()]
    agents = [await agent_at(port, meta.agrees) for port in ports]
    gateway = start_gateway(**settings(*ports, workers=2))
    calls = ["wacid.1", "wacid.2"]
    answer = await asyncio.gather(*(tell(gateway, "connect", call) for call in calls for _ in range(4)))
    assert answer == [200] * 8
    begun = {received.session: agent for agent in agents for received in [await agent.call()]}
    assert len(begun) == 2
    assert states(gateway) == dict.fromkeys(calls, "running")
    assert await tell(gateway, "connect", "wacid.3") == 429

    for call in calls:
        assert await tell(gateway, "terminate", call) == 200
    for agent in agents:
        received = await agent.call()
        assert begun[received.session] is agent
        assert agent.calls.empty()
    await eventually(lambda: states(gateway) == dict.fromkeys(calls, "ended"), "they are over")
    await eventually(lambda: gateway.status()["calls"] == 0, "they are let go")

    def ends() -> list[str]:
        return [line["session"] for line in gateway.log_lines() if line["event"] == "whatsapp call ended"]

    await eventually(lambda: len(ends()) >= 2, "their ends are told")
    assert sorted(ends()) == sorted(begun)


async def test_a_gateway_that_drains_waits_for_the_end_of_a_call(
    start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    port = agent_port()
    await agent_at(port, meta.agrees)
    gateway = start_gateway(**settings(port))
    assert await tell(gateway, "connect") == 200
    gateway.terminate()
    await eventually(lambda: gateway.get("/readyz")[0] == 503, "it drains")
    assert await tell(gateway, "connect", "wacid.2") == 503
    assert await tell(gateway, "terminate") == 200
    assert await gateway.ended() == 0
    assert states(gateway) == {"wacid.1": "ended"}


async def test_a_call_that_outlasts_the_draining_is_ended(
    start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    port = agent_port()
    await agent_at(port, meta.agrees)
    gateway = start_gateway(**settings(port, drain_timeout=0))
    assert await tell(gateway, "connect") == 200
    gateway.terminate()
    assert await gateway.ended() == 0
    (row,) = gateway.sessions()
    assert (row["state"], row["reason"]) == ("ending", "draining"), "the agent's call goes on"


async def test_any_worker_can_stop_a_call(
    start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    port = agent_port()
    agent = await agent_at(port, meta.agrees)
    gateway = start_gateway(**settings(port, workers=2))
    assert await tell(gateway, "connect") == 200
    session = (await agent.call()).session
    async with (
        aiohttp.ClientSession() as http,
        http.delete(
            f"http://127.0.0.1:{gateway.port}/v1/agents/support/sessions/{session}",
            headers={"Authorization": "Bearer sk_acme"},
        ) as answer,
    ):
        assert answer.status == 200
    await eventually(lambda: states(gateway) == {"wacid.1": "ending"}, "the agent's call goes on")
    assert await tell(gateway, "connect", "wacid.2") == 429, "in its slot"
    assert await tell(gateway, "terminate") == 200
    await eventually(lambda: states(gateway) == {"wacid.1": "ended"}, "the agent knows that it is over")
    (row,) = gateway.sessions()
    assert (row["reason"], row["released_by"]) == ("stopped", "answered")


async def test_a_worker_without_file_descriptors_asks_meta_to_retry(
    start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    """Meta is told to come again, over a connection that was there; the instance is not blamed."""
    port = agent_port()
    await agent_at(port, meta.agrees)
    gateway = start_gateway(**settings(port))
    await eventually(lambda: readiness(gateway) == ["ready"], "the instance is ready")
    raw = json.dumps(meta.event(meta.call("connect"))).encode()
    headers = {"Content-Type": "application/json", **meta.signed(raw)}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)) as line:
        line.request("GET", "/livez")
        line.getresponse().read()
        with no_files(gateway):
            line.request("POST", "/v1/public/webhooks/acme/support/whatsapp", raw, headers)
            answer = await asyncio.to_thread(line.getresponse)
            assert (answer.status, json.loads(answer.read())["code"]) == (503, "overloaded")
            await eventually(lambda: len(episodes(gateway)) == 1, "it is told that there are no files")
    (row,) = gateway.sessions()
    assert (row["state"], row["reason"], row["side"]) == ("failed", "overloaded", "gateway")
    await eventually(lambda: len(episodes(gateway)) == 2, "there are files again")
    assert await tell(gateway, "connect", "wacid.2") == 200
    assert await tell(gateway, "terminate", "wacid.2") == 200
    assert readiness(gateway) == ["ready"]


def readiness(gateway: Gateway) -> list[str]:
    return [line["readiness"] for line in gateway.log_lines() if line["event"] == "instance"]
