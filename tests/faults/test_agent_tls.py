# SPDX-License-Identifier: BSD-2-Clause
"""The agent breaks on an encrypted connection to it: the cases of a plain one, and TLS's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.case import Case
from tests.faults.launcher import Launcher
from tests.faults.suite_settings import LIMITS, agents_at
from tests.faults.test_agent import (  # noqa: F401 - the same cases, over TLS
    test_a_bad_answer,
    test_closes_without_a_code,
    test_floods,
    test_is_lost_within_a_message,
    test_sends_garbage,
    test_sends_large_frames,
    test_takes_the_call_and_resets,
)
from tests.harness.agent import Agent, AgentPort, resets
from tests.harness.certificates import issue_certificate
from tests.harness.gateway import Gateway
from tests.harness.socket_servers import SocketServer
from tests.harness.websocket_peer import WebSocketPeer

Cases = Callable[..., Case]


@pytest.fixture(scope="module")
def on_the_way() -> str:
    return ", over TLS"


def serves(directory: Path) -> ssl.SSLContext:
    """Return the TLS settings of an agent with the certificate in this directory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "certificate.pem", directory / "key.pem")
    return context


CERTIFICATES: dict[str, dict[str, object]] = {
    "good": {},
    "that has expired": {"days": -1},
    "for another host": {"host": "example.com"},
    "that the gateway does not trust": {},
}
TRUSTED = ("good", "that has expired", "for another host")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The directories of certificates, by what is wrong with each."""
    made = {name: tmp_path_factory.mktemp("certificate") for name in CERTIFICATES}
    for serial, (name, how) in enumerate(CERTIFICATES.items(), 1):
        issue_certificate(made[name], serial, **how)  # type: ignore[arg-type]
    return made


@pytest.fixture(scope="module")
def support_port(certificates: dict[str, Path]) -> Iterator[AgentPort]:
    port = AgentPort(tls=serves(certificates["good"]))
    yield port
    port.free()


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., Gateway],
    support_port: AgentPort,
    certificates: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Gateway:
    directory = tmp_path_factory.mktemp("trust")
    trusted = directory / "trusted.pem"
    trusted.write_text("".join((certificates[name] / "certificate.pem").read_text() for name in TRUSTED))
    launcher = Launcher(start_gateway, directory)
    return launcher.with_trust(trusted, agents=agents_at(support_port.url), limits=LIMITS)


@pytest.mark.parametrize("name", [name for name in CERTIFICATES if name != "good"])
async def test_its_certificate(
    case: Cases, support: Agent, support_port: AgentPort, certificates: dict[str, Path], name: str
) -> None:
    good = support_port.tls
    async with case(f"has a certificate {name}") as fault:
        fault.agent = support
        await support.stop()
        support_port.tls = serves(certificates[name])
        await support.start()
        fault.strike()
        _, recorder = await fault.caller()
        await fault.ends(recorder, 1011, "agent_unreachable", "agent")
        assert support.upgrades == 0, "nothing is said to it"
        await support.stop()
        support_port.tls = good
        await support.start()


@contextlib.contextmanager
def silent(port: AgentPort) -> Iterator[None]:
    """Take connections to this port, and say nothing."""
    with port.listen() as listening:
        listening.listen()
        yield


async def test_does_not_shake_hands(case: Cases, support: Agent, support_port: AgentPort) -> None:
    async with case("takes the connection and does not shake hands") as fault:
        fault.agent = support
        await support.stop()
        with silent(support_port):
            fault.strike()
            _, recorder = await fault.caller()
            await fault.ends(recorder, 1011, "agent_start_timeout", "agent")
        await support.start()


async def answers_in_plain_text(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


async def test_speaks_no_tls(case: Cases, support: Agent, support_port: AgentPort) -> None:
    async with case("speaks no TLS, where it should") as fault:
        fault.agent = support
        await support.stop()
        plain = SocketServer(answers_in_plain_text)
        await plain.start(support_port.listen())
        fault.strike()
        _, recorder = await fault.caller()
        await fault.ends(recorder, 1011, "agent_unreachable", "agent")
        await plain.stop()
        await support.start()


def raw_end(peer: WebSocketPeer) -> socket.socket:
    """Return another descriptor of the peer's connection, below its TLS."""
    return socket.socket(fileno=os.dup(peer._writer.get_extra_info("socket").fileno()))


async def test_is_cut_off(case: Cases, support: Agent) -> None:
    """The connection ends below TLS, without its closing alert (RFC 8446 §6.1), and nothing listens then."""
    async with case("is cut off without TLS's close, and takes no other call") as fault:
        talk = await fault.talk(support)
        talk.silence()
        await support._listener.pause()
        fault.strike()
        talk.agent.half_close()
        await fault.ends(talk.recorder, 1011, "agent_lost", "agent")
        await support.start()


async def test_sends_a_record_that_no_key_has_sealed(case: Cases, support: Agent) -> None:
    async with case("sends bytes that are no record of TLS, and takes no other call") as fault:
        talk = await fault.talk(support)
        talk.silence()
        support.answer = resets
        fault.strike()
        with raw_end(talk.agent) as raw:
            raw.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        await fault.ends(talk.recorder, 1011, "agent_lost", "agent")
