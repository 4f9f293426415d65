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
from gateway.simulator.waiting import eventually
from gateway.websocket import frames
from serializers.events import AudioFormat, Media, Start
from serializers.pcm16 import PLAIN
from serializers.registry import DIALECTS
from serializers.translation.translator import Translator
from tests.harness.agent import AgentPort
from tests.harness.certificates import issue_certificate
from tests.harness.frames import BINARY


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


async def test_an_agent_that_needs_translation_is_reached_over_tls(
    agent_at: Callable[..., Any], tls: ssl.SSLContext
) -> None:
    port = AgentPort(tls=tls)
    agent = await agent_at(port)
    port.free()  # the agent has it
    start = Start("call-1", "stream-1", audio=AudioFormat("mulaw", 8000))
    dialect = DIALECTS["twilio"]
    leg, _ = await outgoing_leg.connect_leg_with(
        parse_uri(f"wss://localhost:{agent.port.number}/ws"),
        [("x-daily-session-id", "session-1")],
        max_message_bytes=1 << 20,
        max_buffered_bytes=1 << 20,
        on_disconnect=lambda _: None,
        translator=Translator(dialect, start, PLAIN, sample_rate=8000),
    )
    call = await agent.call()
    for _ in range(7):
        call.send(call.frame(BINARY, bytes(160_000)))  # 70 s: more than is held
    socket = leg.transport._socket  # type: ignore[union-attr]
    await eventually(lambda: not socket.is_reading(), "the agent is read no more")
    assert leg.transport.is_reading()
    text = dialect.write_carrier(Media(b"\xff" * 160, "inbound", 1, 0, 1), start).encode()
    leg.transport.write(frames.build(frames.TEXT, text, masked=True))
    heard = await call.hear()
    assert (heard.opcode, heard.payload) == (BINARY, bytes(320))
    leg.close(1000, "")
    assert (await call.closed())[0] == 1000
