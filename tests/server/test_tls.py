# SPDX-License-Identifier: BSD-2-Clause
"""TLS at the port: calls, a certificate that changes while they run, and one that cannot be used."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
import uvloop
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from gateway.config import Settings
from gateway.server import tls, tls_handshakes
from gateway.server.connection_limits import ConnectionLimits
from gateway.server.fd_reserve import FdReserve
from gateway.server.tls import Certificate, CertificateUnusable
from gateway.server.uvicorn_adapter import UvicornServer
from gateway.simulator.gateway_process import to_toml
from gateway.simulator.server_process import PATCHBAY
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_both_hear, connect, hang_up
from tests.harness.caller import open_socket
from tests.harness.certificates import issue_certificate, serial_of, trust_anything
from tests.harness.gateway import Gateway


@pytest.fixture
def agents(support_port: AgentPort) -> list[dict[str, Any]]:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    return [agent | {"sessions_per_instance": 10}]


async def serial_at(port: int) -> int:
    """Return the serial number of the certificate that a new connection gets."""
    _, writer = await open_socket(port, tls=trust_anything())
    connection = writer.get_extra_info("ssl_object")
    assert connection.version() in ("TLSv1.2", "TLSv1.3")
    serial = serial_of(connection)
    writer.close()
    await writer.wait_closed()
    return serial


@pytest.mark.parametrize("workers", [1, 2])
async def test_new_connections_get_a_changed_certificate_and_running_calls_continue(
    start_gateway: Callable[..., Gateway],
    agents: list[dict[str, Any]],
    support: Agent,
    tmp_path: Path,
    workers: int,
) -> None:
    certificate, key = issue_certificate(tmp_path, 1)
    server = {"workers": workers, "tls_certificate": str(certificate), "tls_key": str(key)}
    gateway = start_gateway(server=server, agents=agents)
    call = await connect(gateway, support, tls=trust_anything())
    await assert_both_hear(call)
    assert [await serial_at(gateway.port) for _ in range(8)] == [1] * 8
    issue_certificate(tmp_path, 2)
    if workers > 1:  # one worker notices the change without a signal
        gateway.process.send_signal(signal.SIGHUP)

    def all_have_reloaded() -> bool:
        return sum(line["event"] == "certificate" for line in gateway.log_lines()) >= 1 + 2 * workers

    await eventually(all_have_reloaded, "every worker has loaded the new one")
    async with asyncio.timeout(WAIT_S):  # a worker that loaded it twice may have been counted for the other
        while [await serial_at(gateway.port) for _ in range(8)] != [2] * 8:
            pass
    await assert_both_hear(call)

    def failed_reloads() -> int:
        return sum("stays" in line["event"] for line in gateway.log_lines())

    # A file that cannot be used changes nothing. (A reload between the two writes above may have failed,
    # too.)
    before = failed_reloads()
    key.write_text("no key")
    gateway.process.send_signal(signal.SIGHUP)
    await eventually(lambda: failed_reloads() > before, "the failed reload is logged")
    assert await serial_at(gateway.port) == 2
    await assert_both_hear(call)
    await hang_up(call)


def test_the_end_of_a_certificate_is_reported_while_it_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = issue_certificate(tmp_path, 1)  # for one day from now
    today = datetime.now(UTC)

    class Clock(datetime):
        day = -30

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return today + timedelta(days=cls.day)

    monkeypatch.setattr(tls, "datetime", Clock)
    told: list[list[str]] = []
    with capture_logs() as lines:
        used = Certificate(str(certificate), str(key))
        for Clock.day in (-30, -5, -4, 2, 3):
            used.reload_if_changed()
            told.append([line["event"] for line in lines[1:]])
    soon, over = "the certificate expires soon", "the certificate has expired"
    assert told == [[], [soon], [soon], [soon, over], [soon, over]]


async def test_sighup_without_tls_does_not_stop_the_gateway(
    start_gateway: Callable[..., Gateway], agents: list[dict[str, Any]], support: Agent
) -> None:
    gateway = start_gateway(agents=agents)
    call = await connect(gateway, support)
    gateway.process.send_signal(signal.SIGHUP)
    await eventually(
        lambda: any("no certificate" in line["event"] for line in gateway.log_lines()), "it is logged"
    )
    await assert_both_hear(call)
    await hang_up(call)


async def test_a_client_without_tls_handshake_is_disconnected(
    start_gateway: Callable[..., Gateway], agents: list[dict[str, Any]], tmp_path: Path
) -> None:
    certificate, key = issue_certificate(tmp_path, 1)
    gateway = start_gateway(
        server={"tls_certificate": str(certificate), "tls_key": str(key)},
        limits={"handshake_timeout": 2.5},  # time enough for a handshake on a busy machine
        agents=agents,
    )
    silent = await open_socket(gateway.port)  # TCP only, no handshake
    shakes_hands = await open_socket(gateway.port, tls=trust_anything())  # handshake, but no request
    async with asyncio.timeout(WAIT_S):
        assert await silent[0].read() == b""
        assert (await shakes_hands[0].read()).startswith(b"HTTP/1.1 408 ")
    for _, writer in (silent, shakes_hands):
        writer.close()
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await open_socket(gateway.port, tls=weak_client())


# Handshakes that are not done


async def answer_of_everything(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 204, or start and stop."""
    if scope["type"] == "lifespan":
        for what in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{what}.complete"})
        return
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def status_over_tls(port: int) -> bytes:
    """Return the first line of an answer; b"" if the connection ended in its handshake."""
    try:
        reader, writer = await open_socket(port, tls=trust_anything())
    except (ssl.SSLError, ConnectionError):
        return b""
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    async with asyncio.timeout(WAIT_S):
        line = await reader.readline()
    writer.transport.abort()
    return line


@pytest.mark.parametrize("limit", ["max_handshakes", "max_handshakes_per_site"])
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_oldest_handshake_that_is_not_done_makes_room(
    new_loop: Callable[[], Any], limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        stops = False
        limits = ConnectionLimits(Settings(), 1000, time.monotonic)
        setattr(limits, limit, 3)
        certificate = Certificate(*map(str, issue_certificate(tmp_path, 1)))
        server = UvicornServer(answer_of_everything, limits, FdReserve(), certificate, lambda _: stops)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            running = asyncio.create_task(server.run_until_stopped(listening))
            await eventually(lambda: server.started, "it serves")
            handshakes = server._handshakes
            assert handshakes is not None
            silent = [await open_socket(port) for _ in range(3)]
            await eventually(lambda: len(handshakes) == 3, "three handshakes have begun")
            monkeypatch.setattr(tls_handshakes, "SILENT_S", 3600.0)  # all of them are young
            assert await status_over_tls(port) == b""
            assert len(handshakes) == 3
            monkeypatch.setattr(tls_handshakes, "SILENT_S", 0.0)  # all of them are old
            assert (await status_over_tls(port)).startswith(b"HTTP/1.1 204")
            async with asyncio.timeout(WAIT_S):
                assert await silent[0][0].read() == b""
            await eventually(lambda: len(handshakes) == 2, "nothing is left of the one that is done")
            for _, writer in silent:
                writer.transport.abort()
            await eventually(lambda: len(handshakes) == 0, "nothing is left of those that were lost")
            stops = True
            async with asyncio.timeout(WAIT_S):
                await running

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


def weak_client() -> ssl.SSLContext:
    """Return the context of a client that offers only TLS 1.2 without encryption."""
    context = trust_anything()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("NULL:@SECLEVEL=0")
    return context


def no_file(certificate: Path, key: Path) -> str:
    certificate.unlink()
    return "certificate.pem: No such file"


def no_key_file(certificate: Path, key: Path) -> str:
    key.unlink()
    return "key.pem: No such file"


def no_certificate(certificate: Path, key: Path) -> str:
    certificate.write_text("hello")
    return "certificate.pem: holds no certificate in PEM form"


def no_key(certificate: Path, key: Path) -> str:
    key.write_text("hello")
    return "key.pem: "


def key_of_another_certificate(certificate: Path, key: Path) -> str:
    old = key.read_bytes()
    issue_certificate(key.parent, 2)
    key.write_bytes(old)
    return "key.pem: key values mismatch"


def key_with_passphrase(certificate: Path, key: Path) -> str:
    issue_certificate(key.parent, 2, passphrase=b"secret-passphrase")
    return "key.pem: the key has a passphrase"


BROKEN = [no_file, no_key_file, no_certificate, no_key, key_of_another_certificate, key_with_passphrase]


@pytest.mark.parametrize("breaks", BROKEN)
def test_an_unusable_certificate_is_refused_with_its_cause(
    breaks: Callable[[Path, Path], str], tmp_path: Path
) -> None:
    certificate, key = issue_certificate(tmp_path, 1)
    good = Certificate(str(certificate), str(key))
    detail = breaks(certificate, key)
    good.reload_if_changed()  # logs the cause, and keeps the certificate
    with pytest.raises(CertificateUnusable) as refused:
        Certificate(str(certificate), str(key))
    assert detail in str(refused.value)


def test_an_unusable_certificate_is_reported_at_the_start(tmp_path: Path) -> None:
    certificate, key = issue_certificate(tmp_path, 1)
    detail = key_of_another_certificate(certificate, key)
    (tmp_path / "patchbay.toml").write_text(
        to_toml({"server": {"port": 0, "tls_certificate": str(certificate), "tls_key": str(key)}})
    )
    failed = subprocess.run(
        [*PATCHBAY, "serve", "--config", tmp_path / "patchbay.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
        check=False,
    )
    assert failed.returncode == 1
    assert detail in failed.stderr
    assert "Traceback" not in failed.stderr
