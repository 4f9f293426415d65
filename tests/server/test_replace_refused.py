# SPDX-License-Identifier: BSD-2-Clause
"""`serve --replace PID` touches nobody but a Patchbay of the same user that holds the configured port."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from gateway.server import control_socket, takeover
from gateway.server.control_socket import (
    LEAVE,
    ControlSocket,
    GatewayDescription,
    ReplaceRefusedError,
    RunningGateway,
    control_name,
    reserve_gateway,
)
from gateway.simulator.free_ports import free_port
from gateway.simulator.gateway_process import GatewayProcess, to_toml
from gateway.simulator.server_process import PATCHBAY
from gateway.simulator.waiting import WAIT_S, eventually, wait_until
from tests.harness.gateway import Gateway
from tests.harness.prepared_process import patchbay_starts_anew  # noqa: F401 - a fixture

PID_NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""The command that runs a program among processes of its own: no signal can reach any other."""

ADDRESS = "127.0.0.1:7860"
NO_PROCESS = 4_190_000
AGENTS = [{"name": "support", "organization": "acme"}]

REPLACE_EACH = """
import json, os, subprocess, sys
from pathlib import Path
from gateway.config import load
from gateway.server.serve import run

settings = load(Path(sys.argv[1]), {})
bystander = subprocess.Popen(["sleep", "600"])
group = subprocess.Popen(["sleep", "600"], process_group=0)
numbers = [-1, 0, -group.pid, bystander.pid, os.getpid(), int(sys.argv[2])]
statuses = [run(settings, replace=number) for number in numbers]
survivors = [each.poll() is None for each in (bystander, group)]
print(json.dumps({"numbers": numbers, "statuses": statuses, "survivors": survivors}))
"""


def lines_of(text: str, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def write_config(directory: Path, port: int) -> Path:
    path = directory / "patchbay.toml"
    server = {"port": port, "log_format": "json"}
    store = {"url": f"sqlite:///{directory}/patchbay.db"}
    path.write_text(to_toml({"server": server, "store": store, "agents": AGENTS}))
    return path


def serve_replacing(pid: int, directory: Path, port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PATCHBAY, "serve", "--config", write_config(directory, port), "--replace", str(pid)],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
        check=False,
    )


def test_a_number_that_is_no_gateway_is_refused_and_no_process_is_touched(tmp_path: Path) -> None:
    """Every process of the user, our own group, another group, another program, this one, and nobody."""
    if not shutil.which("unshare") or subprocess.run([*PID_NAMESPACE, "true"], check=False).returncode:
        pytest.skip("processes of one's own namespace are not allowed here")
    finished = subprocess.run(
        [
            *PID_NAMESPACE,
            sys.executable,
            "-c",
            REPLACE_EACH,
            write_config(tmp_path, free_port()),
            str(NO_PROCESS),
        ],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    result = json.loads(finished.stdout)
    assert result["survivors"] == [True, True]
    assert result["statuses"] == [1] * 6
    lines = lines_of(finished.stderr, "cannot replace")
    assert [line["pid"] for line in lines] == result["numbers"]
    minus_one, zero, group, bystander, itself, nobody = (line["error"] for line in lines)
    assert minus_one == "-1 is no process id"
    assert zero == "0 is no process id"
    assert group.endswith("is no process id")
    assert "is no Patchbay that can be replaced" in bystander
    assert itself.endswith("is this process itself")
    assert nobody == f"there is no process {NO_PROCESS}"
    assert not (tmp_path / "patchbay.db").exists()


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway]) -> Gateway:
    return start_gateway(server={"workers": 2}, agents=AGENTS)


def test_a_gateway_on_another_port_goes_on(gateway: Gateway, tmp_path: Path) -> None:
    port = free_port()
    pid = gateway.process.pid
    finished = serve_replacing(pid, tmp_path, port)
    assert finished.returncode == 1
    (line,) = lines_of(finished.stderr, "cannot replace")
    assert line["error"] == (
        f"process {pid} is a Patchbay on 127.0.0.1:{gateway.port}, "
        f"and the configuration says 127.0.0.1:{port}"
    )
    assert gateway.get("/readyz")[0] == 200


def test_no_gateway_is_replaced_where_the_configuration_names_no_port(gateway: Gateway) -> None:
    with pytest.raises(ReplaceRefusedError, match="any free port"):
        takeover.reserve(gateway.process.pid, "127.0.0.1:0")


def test_a_worker_process_cannot_be_replaced(gateway: Gateway) -> None:
    with pytest.raises(ReplaceRefusedError, match="one of its workers"):
        reserve_gateway(gateway.workers()[0]["pid"])
    assert gateway.get("/readyz")[0] == 200


async def test_of_two_that_replace_one_gateway_the_second_is_refused(
    gateway: Gateway, gateways: list[Gateway], tmp_path: Path
) -> None:
    """And the first, if it gives up, has changed nothing: a third one takes the port."""
    pid = gateway.process.pid
    first = reserve_gateway(pid)
    assert first.address == f"127.0.0.1:{gateway.port}"
    with pytest.raises(ReplaceRefusedError, match=f"is being replaced by process {os.getpid()} already"):
        reserve_gateway(pid)
    first.close()

    def is_free() -> bool:
        return any(
            line["event"] == "the other gateway has not taken the port" for line in gateway.log_lines()
        )

    await eventually(is_free, "the old gateway is free again")
    assert gateway.get("/readyz")[0] == 200
    third = Gateway(tmp_path, {"agents": AGENTS}, replace=gateway)
    gateways.append(third)
    assert await gateway.ended() == 0
    await eventually(lambda: "the port is taken over" in third.log_text(), "the third has the port")
    third.port = gateway.port
    assert third.get("/readyz")[0] == 200


# The control socket, both ends in one process


@pytest.fixture
def left() -> list[int]:
    """One entry for each time that the gateway was asked to leave its port."""
    return []


@pytest.fixture
def control(left: list[int]) -> Iterator[ControlSocket]:
    control = ControlSocket(ADDRESS, lambda: left.append(1))
    control.start()
    yield control
    control.stop()


@contextmanager
def as_another_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process ask itself."""
    own = os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: own + 1)
        yield


def reserve(monkeypatch: pytest.MonkeyPatch) -> RunningGateway:
    own = os.getpid()
    with as_another_process(monkeypatch):
        return reserve_gateway(own)


def test_a_gateway_leaves_its_port_once(
    control: ControlSocket, left: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = reserve(monkeypatch)
    assert (old.address, old.is_gone) == (ADDRESS, False)
    assert old.leave_port()
    wait_until(lambda: left == [1], "it leaves")
    old.close()
    with pytest.raises(ReplaceRefusedError, match="has left its port already"):
        reserve(monkeypatch)


def test_what_is_no_request_changes_nothing(
    control: ControlSocket, left: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.connect(control_name(os.getpid()))
        other.recv(4096)
        other.send(b"x" * 5000)
        assert other.recv(4096) == b""
    reserve(monkeypatch).close()
    assert left == []


def test_a_gateway_that_gave_up_waiting_has_asked_for_nothing(left: list[int]) -> None:
    """Its request was still to be read when it closed the connection."""
    control = ControlSocket(ADDRESS, lambda: left.append(1))
    own, given_up = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with selectors.DefaultSelector() as selector, own:
        control._replacing = own
        selector.register(own, selectors.EVENT_READ)
        given_up.send(LEAVE)
        given_up.close()
        control._serve(selector)
    control.stop()
    assert left == []


def test_a_gateway_of_another_user_is_refused(
    control: ControlSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By either side."""
    user = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: user + 1)
        with pytest.raises(ReplaceRefusedError, match="belongs to another user"):
            reserve(monkeypatch)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(control_name(os.getpid()))
            assert stranger.recv(4096) == b""


def test_a_process_of_another_user_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.getpid()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with as_another_process(monkeypatch), pytest.raises(ReplaceRefusedError, match="belongs to another user"):
        reserve_gateway(own)


def test_a_process_that_answers_for_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as impostor:
        impostor.bind(control_name(NO_PROCESS))
        impostor.listen()
        with pytest.raises(ReplaceRefusedError, match=f"process {os.getpid()} answers for it"):
            reserve_gateway(NO_PROCESS)


def test_a_gateway_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "ANSWER_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as frozen:
        frozen.bind(control_name(os.getpid()))
        frozen.listen()
        with pytest.raises(ReplaceRefusedError, match="does not answer"):
            reserve(monkeypatch)


def test_a_gateway_whose_name_is_taken_says_that_it_cannot_be_replaced(control: ControlSocket) -> None:
    second = ControlSocket(ADDRESS, lambda: None)
    with capture_logs() as logs:
        second.start()
    second.stop()
    assert [line["event"] for line in logs] == ["this gateway cannot be replaced while it runs"]


# The port is not handed over after all


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gateway_that_cannot_take_the_port_leaves_it_to_the_old_one(tmp_path: Path, workers: int) -> None:
    """The old one, which this test plays, agrees and then does not answer any more."""
    patched = (
        "import gateway.server.control_socket as c; c.ANSWER_S = 0.2; from gateway.cli import main; main()"
    )
    own = os.getpid()
    with (
        socket.socket() as port,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as frozen,
    ):
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port.bind(("127.0.0.1", 0))
        port.listen()
        frozen.bind(control_name(own))
        frozen.listen()
        number = port.getsockname()[1]
        new = GatewayProcess(
            tmp_path,
            {"server": {"port": number, "workers": workers}, "agents": AGENTS},
            command=[sys.executable, "-c", patched],
            arguments=["--replace", str(own)],
        )
        try:
            old, _ = frozen.accept()
            with old:
                old.send(msgspec.json.encode(GatewayDescription("0.1.0", f"127.0.0.1:{number}")))
                assert new.wait() == 1
        finally:
            new.process.kill()
    failed = [line for line in new.log_lines() if line["event"] == "the port was not taken over"]
    assert [line["error"] for line in failed] == [f"process {own} does not answer"]
