# SPDX-License-Identifier: BSD-2-Clause
"""Connections to agents over TLS: what they are verified with is read once."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.uri import parse_uri

from gateway.media import outgoing_leg
from tests.harness.agent import AgentPort
from tests.harness.certificates import issue_certificate


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """The context of an agent for localhost. Its certificate is one of the authorities meanwhile."""
    certificate, key = issue_certificate(tmp_path, 1)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    outgoing_leg.tls_context.cache_clear()
    yield context
    outgoing_leg.tls_context.cache_clear()


async def test_the_authorities_are_read_once_for_all_calls(
    agent_at: Callable[..., Any], tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading them takes longer than a frame lasts, and no other call goes on meanwhile."""
    contexts: list[ssl.SSLContext] = []
    create = ssl.create_default_context

    def counted() -> ssl.SSLContext:
        contexts.append(create())
        return contexts[-1]

    monkeypatch.setattr(ssl, "create_default_context", counted)
    port = AgentPort(tls=tls)
    agent = await agent_at(port)
    port.free()  # the agent has it
    for _ in range(3):
        leg, _ = await outgoing_leg.connect_leg_with(
            parse_uri(f"wss://localhost:{agent.port.number}/ws"),
            [("x-daily-session-id", "session-1")],
            max_message_bytes=65536,
            max_buffered_bytes=65536,
            on_disconnect=lambda _: None,
        )
        leg.close(1000, "")
    assert agent.upgrades == 3
    assert len(contexts) == 1
    assert contexts[0].verify_mode is ssl.CERT_REQUIRED
    assert contexts[0].check_hostname
