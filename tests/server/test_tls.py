# SPDX-License-Identifier: BSD-2-Clause
"""TLS at the port: calls through it, a certificate that changes under them, and one that cannot be used."""

from __future__ import annotations

import asyncio
import signal
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.server.tls import Certificate, CertificateUnusable
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


async def shown(port: int) -> int:
    """The serial number that a new connection is shown."""
    _, writer = await open_socket(port, tls=trust_anything())
    connection = writer.get_extra_info("ssl_object")
    assert connection.version() in ("TLSv1.2", "TLSv1.3")
    serial = serial_of(connection)
    writer.close()
    await writer.wait_closed()
    return serial


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_new_certificate_is_for_new_calls(
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
    assert [await shown(gateway.port) for _ in range(8)] == [1] * 8
    issue_certificate(tmp_path, 2)
    if workers > 1:  # else it is seen without being told
        gateway.process.send_signal(signal.SIGHUP)

    def read_again() -> bool:
        return sum(line["event"] == "certificate" for line in gateway.log_lines()) >= 1 + 2 * workers

    await eventually(read_again, "every worker reads the new one")
    async with asyncio.timeout(WAIT_S):  # one of them may have read it twice, and been counted for the other
        while [await shown(gateway.port) for _ in range(8)] != [2] * 8:
            pass
    await assert_both_hear(call)

    def stays() -> int:
        return sum("stays" in line["event"] for line in gateway.log_lines())

    # One that cannot be used changes nothing. (It may have been so before, between certificate and key.)
    before = stays()
    key.write_text("no key")
    gateway.process.send_signal(signal.SIGHUP)
    await eventually(lambda: stays() > before, "that it is unusable is told")
    assert await shown(gateway.port) == 2
    await assert_both_hear(call)
    await hang_up(call)


async def test_a_hang_up_without_tls_is_no_end(
    start_gateway: Callable[..., Gateway], agents: list[dict[str, Any]], support: Agent
) -> None:
    gateway = start_gateway(agents=agents)
    call = await connect(gateway, support)
    gateway.process.send_signal(signal.SIGHUP)
    await eventually(
        lambda: any("no certificate" in line["event"] for line in gateway.log_lines()), "it says so"
    )
    await assert_both_hear(call)
    await hang_up(call)


async def test_who_does_not_shake_hands_is_not_waited_for(
    start_gateway: Callable[..., Gateway], agents: list[dict[str, Any]], tmp_path: Path
) -> None:
    certificate, key = issue_certificate(tmp_path, 1)
    gateway = start_gateway(
        server={"tls_certificate": str(certificate), "tls_key": str(key)},
        limits={"handshake_timeout": 2.5},  # time enough for a handshake on a busy machine
        agents=agents,
    )
    silent = await open_socket(gateway.port)  # plain TCP, and no word
    shakes_hands = await open_socket(gateway.port, tls=trust_anything())  # and then asks for nothing
    async with asyncio.timeout(WAIT_S):
        assert await silent[0].read() == b""
        assert (await shakes_hands[0].read()).startswith(b"HTTP/1.1 408 ")
    for _, writer in (silent, shakes_hands):
        writer.close()
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await open_socket(gateway.port, tls=old_fashioned())


def old_fashioned() -> ssl.SSLContext:
    """A client that knows TLS 1.2 with ciphers that nobody should use any more."""
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


def anothers_key(certificate: Path, key: Path) -> str:
    old = key.read_bytes()
    issue_certificate(key.parent, 2)
    key.write_bytes(old)
    return "key.pem: key values mismatch"


def a_locked_key(certificate: Path, key: Path) -> str:
    issue_certificate(key.parent, 2, passphrase=b"secret-passphrase")
    return "key.pem: the key has a passphrase"


BROKEN = [no_file, no_key_file, no_certificate, no_key, anothers_key, a_locked_key]


@pytest.mark.parametrize("breaks", BROKEN)
def test_what_cannot_be_used(breaks: Callable[[Path, Path], str], tmp_path: Path) -> None:
    certificate, key = issue_certificate(tmp_path, 1)
    good = Certificate(str(certificate), str(key))
    detail = breaks(certificate, key)
    good.reload_if_changed()  # says so, and stays as it was
    with pytest.raises(CertificateUnusable) as refused:
        Certificate(str(certificate), str(key))
    assert detail in str(refused.value)


def test_it_is_said_at_the_start(tmp_path: Path) -> None:
    certificate, key = issue_certificate(tmp_path, 1)
    detail = anothers_key(certificate, key)
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
