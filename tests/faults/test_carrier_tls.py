# SPDX-License-Identifier: BSD-2-Clause
"""The carrier breaks on a connection that the gateway encrypts: the cases of a plain one, and TLS's own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.simulator.waiting import WAIT_S, eventually
from tests.faults.case import Case
from tests.faults.many_calls import CROWD, WELL, go_on, hang_up_all
from tests.faults.suite_settings import LIMITS, agents_at
from tests.faults.test_carrier import (  # noqa: F401 - the same cases, over TLS
    test_falls_silent,
    test_floods,
    test_floods_its_opening,
    test_floods_while_the_agent_starts,
    test_leaves_without_a_close,
    test_opens_a_second_socket,
    test_opens_with_garbage,
    test_sends_garbage,
    test_sends_no_opening,
    test_sends_text_that_is_no_message,
    test_sends_text_that_is_no_message_as_bytes,
    test_stops_reading,
)
from tests.harness.agent import Agent, AgentPort
from tests.harness.caller import open_socket
from tests.harness.certificates import issue_certificate, serial_of, trust_anything
from tests.harness.gateway import Gateway
from tests.harness.websocket_peer import WebSocketPeer

Cases = Callable[..., Case]

HANDSHAKE_S = 2.0
GARBAGE = b"\x17\x03\x03\x00\x20" + bytes(32)
"""A record of TLS that no key has sealed (RFC 8446 §5.2)."""


@pytest.fixture(scope="module")
def on_the_way() -> str:
    return ", over TLS"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the gateway's certificate and key."""
    directory = tmp_path_factory.mktemp("certificate")
    issue_certificate(directory, 1)
    return directory


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort, certificate: Path) -> Gateway:
    return start_gateway(
        server={
            "tls_certificate": str(certificate / "certificate.pem"),
            "tls_key": str(certificate / "key.pem"),
        },
        agents=agents_at(support_port.url),
        limits=LIMITS | {"handshake_timeout": HANDSHAKE_S},
    )


async def raw_end(peer: WebSocketPeer) -> socket.socket:
    """Return another descriptor of the peer's connection, below its TLS."""
    return socket.socket(fileno=os.dup(peer._writer.get_extra_info("socket").fileno()))


async def test_sends_a_record_that_no_key_has_sealed(case: Cases, support: Agent) -> None:
    async with case("sends bytes that are no record of TLS") as fault:
        talk = await fault.talk(support)
        talk.silence()
        fault.strike()
        with await raw_end(talk.caller) as raw:
            raw.send(GARBAGE)
        assert (await talk.agent_recorder.closed())[0] == 1011
        await fault.over("carrier_lost", "carrier")
        fault.heard = "sound, then it was gone"


CUT_SHORT = {"breaks its handshake off": 100, "breaks its handshake off within its first record": 3}


@pytest.mark.parametrize("name", CUT_SHORT)
async def test_breaks_its_handshake_off(case: Cases, gateway: Gateway, support: Agent, name: str) -> None:
    """Others' calls go on; it is no call, so it has no end."""
    async with case(name) as fault:
        talk = await fault.talk(support, CROWD)
        fault.strike()
        for _ in range(20):
            reader, writer = await open_socket(gateway.port)
            writer.write(client_hello()[: CUT_SHORT[name]])
            writer.write_eof()
            async with asyncio.timeout(WAIT_S):
                await reader.read()
            writer.close()
        await go_on([talk])
        await hang_up_all(fault, gateway, [talk], "nothing; another caller's sound goes on")
        fault.ended = f"no call; the other {WELL}"


async def test_does_not_finish_its_handshake(case: Cases, gateway: Gateway, support: Agent) -> None:
    async with case(f"does not finish its handshake (`handshake_timeout` {HANDSHAKE_S:g} s)") as fault:
        talk = await fault.talk(support, CROWD)
        fault.strike()
        reader, writer = await open_socket(gateway.port)
        writer.write(client_hello()[:100])
        async with asyncio.timeout(WAIT_S):
            assert await reader.read() == b"", "the gateway closes it"
        writer.close()
        await go_on([talk], 5)
        await hang_up_all(fault, gateway, [talk], "nothing; another caller's sound goes on")
        fault.ended = f"no call; the other {WELL}"


def client_hello() -> bytes:
    """Return the first record of a client's handshake."""
    outgoing = ssl.MemoryBIO()
    client = trust_anything().wrap_bio(ssl.MemoryBIO(), outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


async def test_speaks_no_tls(case: Cases, gateway: Gateway, support: Agent) -> None:
    async with case("speaks no TLS at all") as fault:
        talk = await fault.talk(support, CROWD)
        fault.strike()
        reader, writer = await open_socket(gateway.port)
        writer.write(b"GET /ws/twilio/support.acme HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            assert not (await reader.read()).startswith(b"HTTP/1.1 101")
        writer.close()
        await go_on([talk], 5)
        await hang_up_all(fault, gateway, [talk], "nothing; another caller's sound goes on")
        fault.ended = f"no call; the other {WELL}"


async def test_its_certificate_is_renewed(
    case: Cases, gateway: Gateway, support: Agent, certificate: Path
) -> None:
    async with case("the certificate is renewed in the call") as fault:
        talk = await fault.talk(support, CROWD)
        reloads = certificate_lines(gateway)
        fault.strike()
        issue_certificate(certificate, 2)
        gateway.process.send_signal(signal.SIGHUP)
        await eventually(lambda: certificate_lines(gateway) > reloads, "it is loaded")
        assert await serial_at(gateway.port) == 2
        await go_on([talk], 5)
        await hang_up_all(fault, gateway, [talk], "sound; a new caller gets the new one")
        fault.ended = WELL


async def test_its_new_certificate_is_unusable(
    case: Cases, gateway: Gateway, support: Agent, certificate: Path
) -> None:
    async with case("the certificate is replaced by one that is none") as fault:
        talk = await fault.talk(support, CROWD)
        key, kept = certificate / "key.pem", (certificate / "key.pem").read_bytes()
        before = await serial_at(gateway.port)
        fault.strike()
        key.write_text("no key")
        gateway.process.send_signal(signal.SIGHUP)
        await eventually(lambda: any("stays" in one["event"] for one in gateway.log_lines()), "it is told")
        assert await serial_at(gateway.port) == before
        await go_on([talk], 5)
        await hang_up_all(fault, gateway, [talk], "sound; a new caller gets the old one")
        fault.ended = WELL
        key.write_bytes(kept)


def certificate_lines(gateway: Gateway) -> int:
    return sum(line["event"] == "certificate" for line in gateway.log_lines())


async def serial_at(port: int) -> int:
    """Return the serial number of the certificate that a new connection gets."""
    _, writer = await open_socket(port, tls=trust_anything())
    serial = serial_of(writer.get_extra_info("ssl_object"))
    writer.close()
    await writer.wait_closed()
    return serial
