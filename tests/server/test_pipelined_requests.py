# SPDX-License-Identifier: BSD-2-Clause
"""Requests sent behind each other on one connection (RFC 9112 §9.3.2), whose client leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import AgentPort
from tests.harness.caller import open_socket
from tests.harness.gateway import Gateway


def start(agent: str) -> bytes:
    lines = (
        f"POST /v1/public/{agent}/start HTTP/1.1",
        "Host: api.example.com",
        "Authorization: Bearer pk_acme",
        "Content-Type: application/json",
        "Content-Length: 2",
    )
    return ("\r\n".join(lines) + "\r\n\r\n{}").encode()


@pytest.fixture
def port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


async def test_a_client_that_leaves_a_pipeline_starts_nothing_more(
    start_gateway: Callable[..., Gateway], port: AgentPort
) -> None:
    """The first of its requests waits for an instance when it leaves."""
    agent = {"name": "support", "organization": "acme", "instances": [port.url], "sessions_per_instance": 9}
    gateway = start_gateway(
        organizations=[{"name": "acme", "public_keys": ["pk_acme"]}],
        agents=[agent],
    )
    listening = port.listen()
    listening.listen(1)  # nobody answers there
    _, writer = await open_socket(gateway.port)
    writer.write(start("support") * 3)
    await eventually(gateway.sessions, "the first session is being started")
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()

    def starts() -> list[dict[str, object]]:
        lines = [line for line in gateway.log_lines() if line["event"] == "request"]
        return [line for line in lines if line["route"] == "/v1/public/{agent}/start"]

    await eventually(starts, "its start is over")
    status, _ = gateway.get("/livez")
    assert status == 200
    assert len(gateway.sessions()) == len(starts()) == 1, "what was behind it is not started"
    assert not [line for line in gateway.log_lines() if line["level"] == "error"]
    listening.close()
