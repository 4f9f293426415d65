# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay health`: what a container's health check hears of the gateway."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.server import health_probe
from gateway.server.health_probe import UnhealthyError, address_in, ask
from gateway.simulator.free_ports import free_port
from tests.harness.certificates import issue_certificate
from tests.harness.gateway import Gateway

AGENT = {"name": "support", "organization": "acme", "instances": ["http://127.0.0.1:1"]}


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway]) -> Gateway:
    return start_gateway(agents=[AGENT])


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """Start a server that answers the first connection with some bytes; return its URL."""
    listeners = []

    def start(answer: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return "http://{}:{}".format(*listener.getsockname())

    yield start
    for listener in listeners:
        listener.close()


def test_a_gateway_that_lives_says_so(gateway: Gateway) -> None:
    assert ask(gateway.url) == '{"status":"alive"}'
    assert ask(f"{gateway.url}/readyz") == '{"status":"ready"}'


def test_the_environment_says_where_the_gateway_is(gateway: Gateway) -> None:
    """So an image needs no argument, whatever the port."""
    answer = CliRunner().invoke(app, ["health"], env={"PATCHBAY_SERVER__PORT": str(gateway.port)})
    assert (answer.exit_code, answer.output) == (0, '{"status":"alive"}\n')
    assert address_in({}) == "http://127.0.0.1:7860"
    assert address_in({"PATCHBAY_SERVER__PORT": "8000"}) == "http://127.0.0.1:8000"
    assert address_in({"PATCHBAY_SERVER__TLS_CERTIFICATE": "/tls/tls.crt"}) == "https://127.0.0.1:7860"


def test_a_gateway_with_a_certificate_for_another_name_is_well(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    certificate, key = issue_certificate(tmp_path, 1, host="voice.example.com")
    gateway = start_gateway(
        server={"tls_certificate": str(certificate), "tls_key": str(key)},
        agents=[AGENT],
    )
    assert ask(gateway.url) == '{"status":"alive"}'


def test_a_gateway_that_is_not_there_ends_the_check_with_1() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    answer = CliRunner().invoke(app, ["health", url])
    assert answer.exit_code == 1
    assert f"{url} does not answer: " in answer.output


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 503 Unavailable\r\nContent-Length: 4\r\n\r\nbusy", "answered 503 busy"),
        (b"", "does not answer"),
        (b"SSH-2.0\r\n", "does not answer"),
    ],
)
def test_an_answer_that_is_none_is_told(answering: Callable[[bytes], str], answer: bytes, words: str) -> None:
    with pytest.raises(UnhealthyError, match=words):
        ask(answering(answer))


def test_a_gateway_that_stands_still_is_waited_for_no_longer_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health_probe, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(UnhealthyError, match="timed out"):
        ask("http://{}:{}".format(*listener.getsockname()))


@pytest.mark.parametrize("url", ["127.0.0.1:7860", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port"])
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(UnhealthyError, match="is no"):
        ask(url)
