# SPDX-License-Identifier: BSD-2-Clause
"""What callers and clients are told of a failure names no file and no address of ours; the log does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.server_process import PATCHBAY
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import AgentPort
from tests.harness.certificates import issue_certificate
from tests.harness.gateway import Gateway, ends_after
from tests.harness.transcripts import opening


@pytest.fixture
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    """A gateway whose agent does not listen."""
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    return start_gateway(
        server={"public_url": "https://voice.example.com", "websocket_auth": "none"},
        organizations=[{"name": "acme", "public_keys": ["pk_acme"]}],
        agents=[agent],
        limits={"agent_connect_timeout": 1},
    )


async def told(gateway: Gateway, target: str) -> str:
    """Call; return all that the caller is told of its end."""
    caller = await gateway.dial(target)
    words = caller.body.decode()
    if caller.status == 101:
        for message in opening("twilio"):
            caller.say(message)
        _, words = await caller.closed()
    await gateway.callers_leave()
    return words


@pytest.mark.parametrize("target", ["/ws/twilio/support.acme", "/ws/generic/support.acme"])
async def test_a_caller_does_not_learn_where_an_agent_is(
    gateway: Gateway, support_port: AgentPort, target: str
) -> None:
    words = await told(gateway, target)
    (end,) = await eventually(ends_after(gateway, 0), "the end is logged")
    assert end["reason"] == "agent_unreachable"
    assert str(support_port.number) in end["words"]
    assert words
    assert str(support_port.number) not in words


async def test_a_caller_does_not_learn_whose_certificate_is_no_good(
    start_gateway: Callable[..., Gateway], agent_at: Callable[..., Any], tmp_path: Path
) -> None:
    certificate, key = issue_certificate(tmp_path, 1, host="inner.example.com")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)
    port = AgentPort(tls=served)
    await agent_at(port)
    agent = {"name": "support", "organization": "acme", "instances": [port.url], "websocket_auth": "none"}
    # It trusts the certificate, which is another host's.
    trusting = ["env", f"SSL_CERT_FILE={certificate}", *PATCHBAY]
    gateway = await asyncio.to_thread(start_gateway, command=trusting, agents=[agent])
    words = await told(gateway, "/ws/twilio/support.acme")
    port.free()
    (end,) = await eventually(ends_after(gateway, 0), "the end is logged")
    assert "not valid for 'localhost'" in end["words"]
    assert words == "connecting to the agent failed: no TLS with a good certificate"


async def test_nobody_learns_where_the_store_is(gateway: Gateway) -> None:
    for file in gateway.store.parent.glob(f"{gateway.store.name}*"):
        file.unlink()
    place = str(gateway.store.parent)
    async with asyncio.timeout(WAIT_S):
        while True:  # until the store notices
            before = len(gateway.ends())
            words = await told(gateway, "/ws/twilio/support.acme")
            (end,) = await eventually(ends_after(gateway, before), "the end is logged")
            if end["reason"] == "store_failed":
                break
    assert place in end["words"]
    assert words
    assert place not in words
