# SPDX-License-Identifier: BSD-2-Clause
"""compose.yaml: `docker compose` itself reads it, and what it mounts is what the programs take."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.config import load
from gateway.simulator.waiting import WAIT_S
from tests.interop.shipping import ROOT, tool

CADDY = ROOT / ".venv-interop" / "bin" / "caddy"
OUR_OWN = ("gateway", "agent")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """What docker compose makes of the file."""
    environment = {"PATH": os.defpath, "PATCHBAY_DOMAIN": "voice.example.com", "HOME": "/nonexistent"}
    finished = subprocess.run(
        [tool("docker-compose"), "--file", ROOT / "compose.yaml", "config", "--format=json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    read: dict[str, Any] = json.loads(finished.stdout)
    return read


def test_only_the_proxy_is_reached_from_outside(project: dict[str, Any]) -> None:
    services = project["services"]
    assert {name for name, service in services.items() if service.get("ports")} == {"proxy"}
    assert [port["target"] for port in services["proxy"]["ports"]] == [80, 443]


def test_nothing_but_volumes_can_be_written_to(project: dict[str, Any]) -> None:
    services = project["services"]
    assert {name for name, service in services.items() if not service["read_only"]} == set()
    assert [name for name in OUR_OWN if services[name]["cap_drop"] != ["ALL"]] == []
    for service in services.values():
        assert service["security_opt"] == ["no-new-privileges:true"]
        binds = [volume for volume in service.get("volumes", []) if volume["type"] == "bind"]
        assert [volume["source"] for volume in binds if not Path(volume["source"]).is_file()] == []
        assert [volume["source"] for volume in binds if not volume["read_only"]] == []


def test_calls_have_their_time_before_a_gateway_is_killed(project: dict[str, Any]) -> None:
    """The proxy as well: their sockets go through it."""
    gateway = project["services"]["gateway"]
    drain = float(gateway["environment"]["PATCHBAY_SERVER__DRAIN_TIMEOUT"])
    for name in ("gateway", "proxy"):
        period = project["services"][name]["stop_grace_period"]
        assert period == "2h1m0s", name
        assert drain + 60 == 2 * 3600 + 60


def test_the_gateway_takes_its_settings(project: dict[str, Any]) -> None:
    """The file and the variables together, and the address that its command finds for itself."""
    gateway, proxy = project["services"]["gateway"], project["services"]["proxy"]
    (bind,) = (volume for volume in gateway["volumes"] if volume["type"] == "bind")
    assert bind["target"] == gateway["command"][-1] == "/etc/patchbay/patchbay.toml"
    settings = load(Path(bind["source"]), gateway["environment"])
    assert settings.server.public_url == "https://voice.example.com"
    assert [str(network) for network in settings.server.trusted_proxies] == [
        f"{proxy['networks']['patchbay']['ipv4_address']}/32"
    ]
    script = gateway["entrypoint"][2].replace("$$", "$").replace("hostname -i", "echo 172.30.77.5")
    printed = subprocess.run(
        ["sh", "-c", script.replace("exec patchbay", "exec env"), "sh"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    line = next(line for line in printed.stdout.splitlines() if line.startswith("PATCHBAY_SERVER__NODE_URL="))
    url = line.partition("=")[2]
    assert url == "http://172.30.77.5:7861"
    assert str(load(None, {"PATCHBAY_SERVER__NODE_URL": url}).server.node_url) == url


@pytest.mark.parametrize("domain", ["localhost", "voice.example.com"])
def test_the_proxy_takes_its_file(domain: str, tmp_path: Path) -> None:
    finished = subprocess.run(
        [CADDY, "validate", "--adapter=caddyfile", "--config", ROOT / "deploy" / "compose" / "Caddyfile"],
        env={"PATCHBAY_DOMAIN": domain, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
