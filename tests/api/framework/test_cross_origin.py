# SPDX-License-Identifier: BSD-2-Clause
"""Requests of web pages from other origins (`[server] allowed_origins`; Fetch standard, "CORS protocol")."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.simulator.waiting import WAIT_S
from tests.harness.agent import Agent, AgentPort
from tests.harness.gateway import Gateway

PAGE = "https://app.example.com"
OTHER = "https://other.example.com"
START = "/v1/public/support/start"
KEY = {"Authorization": "Bearer pk_acme"}
OFFER = "/v1/public/support/sessions/7c9e6679-7425-40de-944b-e07fc1f90ae7/api/offer"


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def cors(self) -> dict[str, str]:
        """The headers that a browser reads for the page."""
        return {
            name.lower().removeprefix("access-control-"): value
            for name, value in self.headers.items()
            if name.lower().startswith("access-control-")
        }


def ask(gateway: Gateway, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = Answer(answer.status, answer.headers, answer.read())
    connection.close()
    return found


def preflight(gateway: Gateway, path: str, origin: str = PAGE, method: str = "POST") -> Answer:
    """Ask as a browser does before the page's own request: without a key."""
    return ask(
        gateway,
        "OPTIONS",
        path,
        Origin=origin,
        Access_Control_Request_Method=method,
        Access_Control_Request_Headers="authorization,content-type",
    )


@pytest.fixture(scope="module")
def port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


@pytest.fixture(scope="module")
def settings(port: AgentPort) -> dict[str, Any]:
    agents = [
        {"name": "support", "organization": "acme", "instances": [port.url], "sessions_per_instance": 9},
        {"name": "locked", "organization": "acme", "instances": [port.url], "websocket_auth": "token"},
    ]
    keys = {"public_keys": ["pk_acme"], "private_keys": ["sk_acme"]}
    return {"organizations": [{"name": "acme", **keys}], "agents": agents}


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], settings: dict[str, Any]) -> Gateway:
    return start_gateway(
        server={"allowed_origins": ["https://APP.example.com:443", PAGE + ":8443"]}, **settings
    )


@pytest.fixture(scope="module")
def closed(start_gateway: Callable[..., Gateway], settings: dict[str, Any]) -> Gateway:
    """A gateway whose operator allows no page."""
    return start_gateway(**settings, limits={"agent_connect_timeout": 0.5})  # none is there


@pytest.mark.parametrize("path", [START, OFFER, "/v1/public/support/strat"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_preflight_of_an_allowed_page_needs_no_key(gateway: Gateway, path: str, method: str) -> None:
    answer = preflight(gateway, path, method=method)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.cors["allow-origin"] == PAGE
    assert method in answer.cors["allow-methods"].split(", ")
    assert answer.cors["allow-headers"] == "authorization,content-type"
    assert "allow-credentials" not in answer.cors
    assert "Origin" in answer.headers["Vary"]
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    "origin", [OTHER, "null", "http://app.example.com", PAGE + ".evil.example", PAGE + "/"]
)
def test_a_page_of_another_origin_is_allowed_nothing(gateway: Gateway, origin: str) -> None:
    answer = preflight(gateway, OFFER, origin)
    assert (answer.status, answer.cors) == (401, {})
    assert "Origin" in answer.headers["Vary"], "a cache must not give it to a page that is allowed"
    started = ask(
        gateway,
        "POST",
        "/v1/public/nobody/start",
        "{}",
        Origin=origin,
        Content_Type="application/json",
        **KEY,
    )
    assert (started.status, started.cors) == (404, {})


def test_a_page_reads_why_it_was_refused(gateway: Gateway) -> None:
    refusals = {
        401: ask(gateway, "POST", START, "{}", Origin=PAGE),
        400: ask(gateway, "POST", START, "{", Origin=PAGE, Content_Type="application/json", **KEY),
        404: ask(
            gateway,
            "POST",
            "/v1/public/nobody/start",
            "{}",
            Origin=PAGE,
            Content_Type="application/json",
            **KEY,
        ),
        405: ask(gateway, "GET", START, Origin=PAGE),
    }
    for status, answer in refusals.items():
        assert answer.status == status
        assert answer.cors == {"allow-origin": PAGE, "expose-headers": "*"}
        said = json.loads(answer.body)
        assert said["info"] == said["error"], "Pipecat's client shows `info`"


def test_a_page_of_an_allowed_port_starts_a_session(gateway: Gateway) -> None:
    body = '{"transport": "websocket"}'
    answer = ask(
        gateway,
        "POST",
        "/v1/public/locked/start",
        body,
        Origin=f"{PAGE}:8443",
        Content_Type="application/json",
        **KEY,
    )
    assert (answer.status, answer.cors["allow-origin"]) == (200, f"{PAGE}:8443")
    assert json.loads(answer.body)["token"]


@pytest.mark.parametrize(
    "path", ["/v1/agents", "/livez", "/v1/public/webhooks/acme/support/dialin", "/v1/sessions"]
)
def test_only_the_public_api_is_open_to_pages(gateway: Gateway, path: str) -> None:
    for answer in (preflight(gateway, path), ask(gateway, "POST", path, "{}", Origin=PAGE)):
        assert answer.cors == {}


@pytest.mark.parametrize("path", [START, OFFER])
def test_without_the_setting_no_page_is_allowed(closed: Gateway, path: str) -> None:
    answer = preflight(closed, path)
    assert answer.cors == {}
    assert answer.headers["Vary"] is None
    assert ask(closed, "POST", path, "{}", Origin=PAGE, **KEY).cors == {}


def test_any_page_is_allowed_where_the_operator_says_so(
    start_gateway: Callable[..., Gateway], settings: dict[str, Any]
) -> None:
    gateway = start_gateway(server={"allowed_origins": ["*"]}, **settings)
    for origin in (PAGE, OTHER, "null"):
        answer = preflight(gateway, START, origin)
        assert (answer.status, answer.cors["allow-origin"]) == (204, "*")
        assert "allow-credentials" not in answer.cors


# Media sockets


async def test_a_socket_of_another_page_needs_a_token(
    gateway: Gateway, port: AgentPort, agent_at: Callable[..., Any]
) -> None:
    agent: Agent = await agent_at(port)
    for carrier in ("generic", "twilio"):
        refused = await gateway.dial(f"/ws/{carrier}/support.acme", headers={"Origin": OTHER})
        await refused.leave()
        assert refused.refusal == (403, "unauthorized")
        assert "allowed_origins" in refused.json["error"]
    body = '{"transport": "websocket"}'
    started = ask(gateway, "POST", "/v1/public/support/start", body, Content_Type="application/json", **KEY)
    token = json.loads(started.body)["token"]
    for target, origin in (
        ("/ws/generic/support.acme", PAGE),
        ("/ws/generic/support.acme", None),
        (f"/ws/generic/support.acme?token={token}", OTHER),
    ):
        caller = await gateway.dial(target, headers={"Origin": origin})
        assert caller.status == 101, (target, origin, caller.body)
        await agent.call()
        await caller.leave()


async def test_without_the_setting_a_socket_may_be_of_any_page(
    closed: Gateway, port: AgentPort, agent_at: Callable[..., Any]
) -> None:
    agent: Agent = await agent_at(port)
    caller = await closed.dial("/ws/generic/support.acme", headers={"Origin": OTHER})
    assert caller.status == 101
    await agent.call()
    await caller.leave()
