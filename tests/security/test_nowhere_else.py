# SPDX-License-Identifier: BSD-2-Clause
"""Nothing that a client sends makes the gateway connect to any host but its instances."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.caller import dial
from tests.harness.gateway import Gateway
from tests.harness.socket_servers import SocketServer
from tests.harness.transcripts import opening

KEY = {"Authorization": "Bearer sk_acme", "Content-Type": "application/json"}


class Trap:
    """A server that the gateway must never connect to."""

    def __init__(self) -> None:
        self.visits: list[bytes] = []
        self._listener = SocketServer(self._visited)

    async def start(self) -> Trap:
        sock = socket.create_server(("127.0.0.1", 0))
        self.port: int = sock.getsockname()[1]
        await self._listener.start(sock)
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _visited(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits.append(await reader.read(4096))
        writer.close()

    async def stop(self) -> None:
        await self._listener.stop()


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    one = await Trap().start()
    yield one
    await one.stop()


@pytest.fixture(scope="module")
def ports(agent_port: Callable[[], AgentPort]) -> dict[str, AgentPort]:
    return {"support": agent_port(), "redirecting": agent_port()}


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], ports: dict[str, AgentPort]) -> Gateway:
    return start_gateway(
        server={"public_url": "https://voice.example.com"},
        organizations=[{"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme"]}],
        agents=[
            {"name": name, "organization": "acme", "instances": [port.url], "sessions_per_instance": 50}
            for name, port in ports.items()
        ],
    )


def ask(
    gateway: Gateway, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    try:
        raw = json.dumps(body) if body is not None else None
        connection.request(method, path, raw, {**KEY, **(headers or {})})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


async def test_no_part_of_an_upgrade_chooses_a_host(
    gateway: Gateway, trap: Trap, agent_at: Callable[..., Any], ports: dict[str, AgentPort]
) -> None:
    support: Agent = await agent_at(ports["support"])
    url, host = trap.url, f"127.0.0.1:{trap.port}"
    body = base64.b64encode(json.dumps({"url": url, "instance": url}).encode()).decode()
    hosts = [host, f"support.acme@{host}", f"support.acme.{host}"]
    headers: list[dict[str, str | None]] = [
        {"Host": host},
        {"X-Forwarded-Host": host, "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http"},
        {"Forwarded": f"for=127.0.0.1;host={host}", "Origin": url, "Referer": url},
        {"X-Original-URL": url, "X-Rewrite-URL": url, "x-daily-session-id": url},
    ]
    targets = [
        "/ws/twilio/support.acme",
        f"/ws/twilio/support.acme?body={body}",
        f"/ws/twilio?serviceHost={host}",
        f"/ws/twilio/{host}",
        f"/ws/twilio/support.acme?instance={url}&url={url}",
        f"{url}/ws/twilio/support.acme",
        f"//{host}/ws/twilio/support.acme",
    ]
    parameters = [{"_pipecatCloudServiceHost": each} for each in hosts] + [{"instance": url, "url": url}]
    for target in targets:
        for given in headers:
            caller = await gateway.dial(target, headers=dict(given))
            if caller.status == 101:
                for message in opening("twilio", parameters[len(gateway.ends()) % len(parameters)]):
                    caller.say(message)
                await eventually(lambda: gateway.status()["calls"] or True, "it is taken")
            await caller.leave()
    await eventually(lambda: len(gateway.ends()) == gateway.upgrades, "all are over")
    assert trap.visits == []
    assert support is not None


async def test_no_part_of_a_request_chooses_a_host(
    gateway: Gateway, trap: Trap, agent_at: Callable[..., Any], ports: dict[str, AgentPort]
) -> None:
    await agent_at(ports["support"])
    url, host = trap.url, f"127.0.0.1:{trap.port}"
    requests: list[tuple[str, str, Any, dict[str, str]]] = [
        ("POST", "/v1/public/support/start", {"body": {"url": url}, "dailyRoom": url}, {}),
        ("POST", "/v1/public/support/start", {"createDailyRoom": True, "dailyRoomProperties": {}}, {}),
        ("POST", f"/v1/public/{host}/start", {}, {}),
        ("POST", "/v1/public/support/start", {}, {"Host": host, "X-Forwarded-Host": host}),
        ("GET", "/v1/public/support/sessions/none/anything", None, {"Host": host}),
        ("GET", f"{url}/v1/agents", None, {}),
        # An agent made through the API may only have instances of the configuration.
        ("POST", "/v1/agents", {"agentName": "made", "image": url, "instances": [url]}, {}),
        ("POST", "/v1/agents", {"agentName": "made", "instances": [f"http://{host}"]}, {}),
        ("PATCH", "/v1/agents/support", {"instances": [url]}, {}),
    ]
    for method, path, body, headers in requests:
        status = await asyncio.to_thread(ask, gateway, method, path, body, headers)
        assert 200 <= status < 600
    assert trap.visits == []


async def test_a_redirect_of_an_agent_is_not_followed(
    gateway: Gateway, trap: Trap, ports: dict[str, AgentPort]
) -> None:
    """Neither by a call nor by a request."""
    visits: list[bytes] = []

    async def redirects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {trap.url}/ws\r\nRefresh: 0; url={trap.url}\r\n"
            "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        writer.close()

    port = ports["redirecting"]
    redirecting = SocketServer(redirects)
    await redirecting.start(port.listen())
    caller = await gateway.dial("/ws/generic/redirecting.acme")
    assert caller.refusal == (502, "agent_unreachable")
    await caller.leave()
    status = await asyncio.to_thread(ask, gateway, "POST", "/v1/public/redirecting/start", {"body": {}}, {})
    assert status < 600
    await eventually(lambda: any(b"/bot" in visit for visit in visits), "the bot was asked")
    assert any(visit.startswith(b"GET /ws") for visit in visits)
    assert trap.visits == []
    await redirecting.stop()


async def test_the_trap_notices_a_connection(gateway: Gateway, trap: Trap) -> None:
    """The other tests would otherwise prove nothing."""
    caller = await dial(trap.port, "/")
    await caller.leave()
    await eventually(lambda: trap.visits, "a visit is noticed")
