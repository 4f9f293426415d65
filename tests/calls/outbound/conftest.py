# SPDX-License-Identifier: BSD-2-Clause
"""A gateway that dials through four carriers, each a server of its own, and an agent with one slot."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.simulator.waiting import WAIT_S, eventually
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from tests.harness.agent import AgentPort
from tests.harness.callees import Callee, next_callee, server_of
from tests.harness.gateway import Gateway
from tests.harness.rest_accounts import CREDENTIALS, SERVERS
from tests.harness.rest_telnyx import TelnyxServer

CARRIERS = tuple(SERVERS)
PUBLIC_URL = "https://voice.test"
FROM = "+14155550199"


@dataclass
class OutboundGateway:
    """A running gateway, its carriers' servers, and an HTTP client of its API."""

    gateway: Gateway
    servers: dict[str, Any]
    http: aiohttp.ClientSession
    before: dict[str, int] = field(default_factory=dict)

    async def post(
        self, path: str, body: Any = None, key: str = "sk_acme", **headers: str
    ) -> tuple[int, Any]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.post(
            f"http://127.0.0.1:{self.gateway.port}{path}",
            data=io.BytesIO(json.dumps(body or {}).encode()),
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json", **given},
        ) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> Any:
        async with self.http.get(
            f"http://127.0.0.1:{self.gateway.port}{path}", headers={"Authorization": "Bearer sk_acme"}
        ) as answer:
            assert answer.status == 200
            return await answer.json()

    async def request_call(
        self, carrier: str = "twilio", agent: str = "support", **more: Any
    ) -> tuple[int, Any]:
        """Send `POST …/dialout`; return status and body of the answer. `more`: members of the request."""
        headers = more.pop("headers", {})
        body = {"carrier": carrier, "to": "+14155550142", "from": FROM, **more}
        body = {name: value for name, value in body.items() if value is not None}
        return await self.post(f"/v1/public/{agent}/dialout", body, "pk_acme", **headers)

    async def dial(self, carrier: str = "twilio", **more: Any) -> tuple[str, Callee]:
        """Start a call that the carrier accepts. Return its session and the called telephone."""
        before = len(self.servers[carrier].calls)
        status, answer = await self.request_call(carrier, **more)
        assert status == 200, answer
        return answer["sessionId"], await next_callee(carrier, self.servers[carrier], before)

    def dial_count(self, carrier: str = "twilio") -> int:
        """Return how often the carrier was asked to dial."""
        return len(self.servers[carrier].requests_of("dial"))

    async def ended(self, session: str) -> dict[str, Any]:
        """Return the record of a session, once it is over."""
        found = await eventually(
            lambda: [row for row in self.gateway.sessions(session) if row["ended_at"] is not None],
            "the session is over",
        )
        return dict(found[0])

    async def wait_for_agent(self, session: str, phone: Callee) -> None:
        await eventually(lambda: self.gateway.sessions(session)[0]["state"] == "running", "the agent runs")

    async def log_line(self, session: str, event: str) -> dict[str, Any]:
        """Return the one log line with this event and session."""

        def found() -> list[dict[str, Any]]:
            lines = self.gateway.log_lines()
            return [line for line in lines if (line.get("session"), line["event"]) == (session, event)]

        (line,) = await eventually(found, f"{event} is logged")
        return dict(line)

    def stored_keys(self, kind: str) -> list[str]:
        """Return the keys of the stored values of a kind."""
        connection = sqlite3.connect(f"file:{self.gateway.store}?mode=ro", uri=True, timeout=WAIT_S)
        try:
            return [key for (key,) in connection.execute("SELECT key FROM document WHERE kind = ?", (kind,))]
        finally:
            connection.close()

    async def all_slots_free(self) -> None:
        """Wait until every session is over."""
        await self.gateway.callers_leave()

        def free() -> bool:
            return all(row["ended_at"] is not None for row in self.gateway.sessions())

        await eventually(free, "every slot is free")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """The store of one worker, for calls in the test's own loop."""
    opened = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("worker"))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def signing_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def carrier_ports(agent_port: Callable[[], AgentPort]) -> dict[str, AgentPort]:
    return {carrier: agent_port() for carrier in CARRIERS}


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    """Settings that a module overrides: `acme`, `support`, `account` (of each carrier), `server`."""
    return {}


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., Gateway],
    carrier_ports: dict[str, AgentPort],
    support_port: AgentPort,
    signing_key: Ed25519PrivateKey,
    tables: dict[str, Any],
) -> Gateway:
    """Its agent support.acme has one slot, so that a slot that is not freed is noticed."""
    settings = []
    for carrier, port in carrier_ports.items():
        server = server_of(carrier, port, "")
        if isinstance(server, TelnyxServer):
            server._key = signing_key
        more = {"public_keys": [server.public_key]} if carrier == "telnyx" else {}
        settings.append(
            {
                "carrier": carrier,
                "api_url": server.api_url,
                "calls_per_second": 1000.0,
                **CREDENTIALS[carrier],
                **more,
                **tables.get("account", {}),
            }
        )
    acme = {
        "name": "acme",
        "public_keys": ["pk_acme"],
        "private_keys": ["sk_acme"],
        "carriers": settings,
        "dial_prefixes": ["+1415"],
        "dial_per_minute": 1000,
        **tables.get("acme", {}),
    }
    support = {"name": "support", "organization": "acme", "instances": [support_port.url], "max_agents": 1}
    return start_gateway(
        organizations=[acme],
        agents=[support | tables.get("support", {})],
        server={"public_url": PUBLIC_URL, **tables.get("server", {})},
        numbers=[{"number": FROM, "agent": "support.acme"}],
    )


@pytest.fixture
async def outbound(
    gateway: Gateway, carrier_ports: dict[str, AgentPort], signing_key: Ed25519PrivateKey
) -> AsyncIterator[OutboundGateway]:
    servers: dict[str, Any] = {}
    via = f"http://127.0.0.1:{gateway.port}"
    for carrier, port in carrier_ports.items():
        servers[carrier] = await server_of(carrier, port, via).start()
    servers["telnyx"]._key = signing_key
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S * 2)) as http:
            outbound = OutboundGateway(gateway, servers, http)
            yield outbound
            await outbound.all_slots_free()
    finally:
        await asyncio.gather(*(server.stop() for server in servers.values()))
