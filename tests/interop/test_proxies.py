# SPDX-License-Identifier: BSD-2-Clause
"""nginx, Caddy and HAProxy with the files of docs/proxies, in front of a gateway, over TLS.

Of each file only what is of the machine is replaced: ports, the certificate's files, open files.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.simulator.free_ports import LOOPBACK, free_port
from gateway.simulator.server_process import ServerProcess
from gateway.simulator.waiting import WAIT_S
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_both_hear, assert_ended, connect, hang_up
from tests.harness.caller import Connection, answered
from tests.harness.certificates import issue_certificate, trust_anything
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "proxies"
CADDY = ROOT / ".venv-interop" / "bin" / "caddy"

HOST = "voice.example.com"
EXOTEL = "127.0.0.2"
"""The address that the gateway knows Exotel by."""

STRANGER = "127.0.0.3"

LAST = {"Connection": "Upgrade, close"}
"""Has a proxy close the connection after an answer that is no 101."""

NGINX_AROUND = """\
daemon off; pid {directory}/pid; error_log stderr; worker_processes 1; user {user};
events {{ worker_connections 128; }}
http {{
    access_log off;
    client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
    uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    include {directory}/patchbay.conf;
}}
"""
"""The nginx.conf around the example: nginx reads a file of the http block."""

CADDY_AROUND = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n\n"
"""Options of the process, so that it takes no port but the site's."""


@dataclass(frozen=True)
class Site:
    """Where a proxy runs, and what it needs: the ports of both sides, the certificate and its key."""

    directory: Path
    port: int
    gateway: int
    certificate: Path
    key: Path

    def write(self, example: str, name: str, replaced: dict[str, str], around: str = "") -> Path:
        """Write an example's file with some texts replaced, each of which it has once."""
        text = (EXAMPLES / example).read_text(encoding="utf-8")
        for old, new in replaced.items():
            assert text.count(old) == 1, (example, old)
            text = text.replace(old, new)
        file = self.directory / name
        file.write_text(around + text, encoding="utf-8")
        return file


def program(name: str) -> str:
    """Return a program's path. A missing one is a failure: .ci/run installs it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
    if found is None:
        pytest.fail(f"there is no {name}: install it, as .ci/run does")
    return found


def nginx(site: Site) -> Sequence[str | Path]:
    site.write(
        "nginx.conf",
        "patchbay.conf",
        {
            "listen 443 ssl": f"listen {LOOPBACK}:{site.port} ssl",
            "/etc/ssl/voice.example.com.pem": str(site.certificate),
            "/etc/ssl/voice.example.com.key": str(site.key),
            "http://127.0.0.1:7860": f"http://127.0.0.1:{site.gateway}",
        },
    )
    main = site.directory / "nginx.conf"
    user = pwd.getpwuid(os.getuid()).pw_name
    main.write_text(NGINX_AROUND.format(directory=site.directory, user=user), encoding="utf-8")
    return [program("nginx"), "-p", site.directory, "-c", main, "-e", "stderr"]


def caddy(site: Site) -> Sequence[str | Path]:
    if not CADDY.exists():
        pytest.fail("there is no Caddy in .venv-interop: `make interop` installs it and runs these tests")
    file = site.write(
        "Caddyfile",
        "Caddyfile",
        {
            f"\n{HOST} {{": f"\n{HOST}:{site.port} {{\n\ttls {site.certificate} {site.key}\n",
            "127.0.0.1:7860": f"127.0.0.1:{site.gateway}",
        },
        CADDY_AROUND,
    )
    return [CADDY, "run", "--config", file, "--adapter", "caddyfile"]


def haproxy(site: Site) -> Sequence[str | Path]:
    both = site.directory / "both.pem"
    both.write_bytes(site.certificate.read_bytes() + site.key.read_bytes())
    file = site.write(
        "haproxy.cfg",
        "haproxy.cfg",
        {
            "maxconn 8000": "maxconn 100",  # as few open files as the machine may allow
            "bind :443": f"bind {LOOPBACK}:{site.port}",
            "/etc/haproxy/voice.example.com.pem": str(both),
            "127.0.0.1:7860": f"127.0.0.1:{site.gateway}",
        },
    )
    return [program("haproxy"), "-db", "-f", file]


@dataclass
class Answer:
    """An HTTP answer, and whether the gateway gave it."""

    status: int
    head: bytes
    body: bytes

    @property
    def is_the_gateways(self) -> bool:
        return b"\r\nx-request-id:" in self.head.lower()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Proxy:
    """A proxy in front of the gateway."""

    def __init__(self, port: int, gateway: Gateway) -> None:
        self.port = port
        self.gateway = gateway

    async def open(self, source: str = LOOPBACK) -> Connection:
        """Connect from an address of this machine, as a carrier does."""
        async with asyncio.timeout(WAIT_S):
            return await asyncio.open_connection(
                LOOPBACK, self.port, ssl=trust_anything(), server_hostname=HOST, local_addr=(source, 0)
            )

    async def ask(
        self, target: str, body: bytes | None = None, *, source: str = LOOPBACK, **headers: str
    ) -> Answer:
        """Send a request; with a `body` it is a POST."""
        fields = {"Host": HOST, "Connection": "close"} | headers
        if body is not None:
            fields |= {"Content-Length": str(len(body))}
        lines = [f"{'GET' if body is None else 'POST'} {target} HTTP/1.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        reader, writer = await self.open(source)
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))
        async with asyncio.timeout(WAIT_S):
            head, raw = await answered(reader)
        writer.close()
        return Answer(int(head.split(b" ", 2)[1]), head, raw)


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    """A gateway that knows Exotel by its address, behind a proxy on this machine."""
    return start_gateway(
        server={"public_url": f"https://{HOST}", "trusted_proxies": [LOOPBACK]},
        agents=[{"name": "support", "organization": "acme", "instances": [support_port.url]}],
        organizations=[{"name": "acme", "private_keys": ["sk_acme"], "public_keys": ["pk_acme"]}],
        **{"organizations.carriers": [{"carrier": "exotel", "allow": [EXOTEL]}]},
    )


@pytest.fixture(scope="module", params=[nginx, caddy, haproxy], ids=lambda make: make.__name__)
def proxy(
    request: pytest.FixtureRequest, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """One proxy after the other, with the file that the documentation shows."""
    name = request.param.__name__
    directory = tmp_path_factory.mktemp(name)
    certificate, key = issue_certificate(directory, 1, host=HOST)
    site = Site(directory, free_port(), gateway.port, certificate, key)
    environment = {"PATH": os.defpath, "HOME": str(directory)}
    process = ServerProcess(
        name, request.param(site), directory / "log", cwd=directory, environment=environment
    )
    running = Proxy(site.port, gateway)

    def is_ready() -> bool:
        try:
            return asyncio.run(running.ask("/")).status == 404
        except OSError:
            return False

    with process:
        process.wait_until_ready(is_ready)
        yield running


def document_url(call_id: str) -> str:
    return f"/xml/exotel?agent=support&org=acme&CallSid={call_id}&CallFrom=09876543210&CallTo=08045678901"


async def test_the_call_of_a_carrier(proxy: Proxy, support: Agent) -> None:
    """The document, the media socket that it names, sound both ways, and the callback."""
    gateway = proxy.gateway
    call_id = json.loads(opening("exotel")[1])["start"]["call_sid"]
    document = await proxy.ask(document_url(call_id), source=EXOTEL)
    assert document.status == 200, document.body
    socket = urlsplit(document.json["url"])
    assert (socket.scheme, socket.netloc) == ("wss", HOST)
    target = f"{socket.path}?{socket.query}" if socket.query else socket.path
    call = await connect(gateway, support, target, host=HOST, over=await proxy.open(EXOTEL))
    await assert_both_hear(call)
    status = await proxy.ask(
        f"/callbacks/exotel/{call.session}/status?org=acme",
        f"CallSid={call_id}&Status=completed".encode(),
        source=EXOTEL,
        Content_Type="application/x-www-form-urlencoded",
    )
    assert (status.status, status.is_the_gateways) == (200, True), status.body
    await hang_up(call)
    await assert_ended(gateway, call.session, "caller_hangup", "caller")


async def test_a_client_is_known_by_its_own_address_and_not_by_what_it_says(proxy: Proxy) -> None:
    for source, said in ((STRANGER, None), (STRANGER, EXOTEL), (LOOPBACK, EXOTEL)):
        headers = {"X_Forwarded_For": said} if said else {}
        refused = await proxy.ask(document_url("2"), source=source, **headers)
        assert (refused.status, refused.is_the_gateways) == (403, True), (source, said, refused.body)
    taken = await proxy.ask(document_url("3"), source=EXOTEL, X_Forwarded_For=STRANGER)
    assert taken.status == 200


async def test_the_api_and_its_webhooks_are_reached(proxy: Proxy) -> None:
    assert (await proxy.ask("/v1/sessions", Authorization="Bearer sk_acme")).status == 200
    assert (await proxy.ask("/v1/sessions", Authorization="Bearer sk_other")).status == 401
    start = await proxy.ask(
        "/v1/public/support/start",
        b'{"transport": "websocket"}',
        Authorization="Bearer pk_acme",
        Content_Type="application/json",
    )
    assert start.is_the_gateways, start.head
    for webhook in ("dialin", "whatsapp"):
        answer = await proxy.ask(f"/v1/public/webhooks/acme/support/{webhook}", b"{}")
        assert answer.is_the_gateways, answer.head


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/status",
        "/livez",
        "/readyz",
        "/docs",
        "/openapi.json",
        "/ws",
        "/ws/../status",
        "/ws/%2e%2e/status",
    ],
)
async def test_what_is_for_the_operator_is_not_found(proxy: Proxy, path: str) -> None:
    answer = await proxy.ask(path)
    assert answer.status in (400, 404, 426), answer.body
    assert b"patchbay" not in answer.body


@pytest.mark.parametrize(
    "target",
    ["//ws/exotel/support.acme", "//ws/ws/exotel/support.acme", "//ws/v1/public/support/sessions/0/ws"],
)
async def test_two_slashes_lead_nowhere(proxy: Proxy, target: str, support: Agent) -> None:
    caller = await proxy.gateway.dial(target, host=HOST, headers=LAST, over=await proxy.open(EXOTEL))
    assert caller.status == 404
    if b'"not_found"' not in caller.body:
        proxy.gateway.upgrades -= 1  # it was not asked
    await caller.leave()
    assert support.upgrades == 0


async def test_a_socket_that_is_refused_gets_the_gateways_answer(proxy: Proxy) -> None:
    over = await proxy.open()
    caller = await proxy.gateway.dial("/ws/twilio/nobody.acme", host=HOST, headers=LAST, over=over)
    assert caller.refusal == (403, "unauthorized"), "whether there is such an agent is told to nobody"
    await caller.leave()
