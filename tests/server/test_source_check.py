# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay check` says what sources of instances find, and what is wrong with those that find nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config import Settings
from gateway.config.workability import Severity
from gateway.server import source_check
from gateway.server.source_check import find_instances, missing_libraries
from tests.harness.name_server import NameServer, name_server

SOURCE = "dns://support.test:8080"


@pytest.fixture
def server() -> Iterator[NameServer]:
    """Run a name server while `patchbay check` runs an event loop of its own."""
    ready: list[NameServer] = []

    async def serve(loop_is_over: asyncio.Event) -> None:
        async with name_server(records={"support.test": ["10.0.0.1", "10.0.0.2"]}) as running:
            ready.append(running)
            started.set()
            await loop_is_over.wait()

    started = threading.Event()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(over),))
    thread.start()
    started.wait(60)
    yield ready[0]
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


def settings(server: NameServer | None, *instances: str, region: str = "") -> Settings:
    """Return settings of an agent with these instances."""
    return Settings.model_validate(
        {
            "server": {"nameservers": [server.address] if server else []},
            "regions": [
                {"code": "us-west", "display_name": "West"},
                {"code": "eu", "display_name": "Europe", "url": "https://eu.example.com"},
            ],
            "agents": [
                {"name": "support", "organization": "acme", "region": region, "instances": list(instances)}
            ],
        }
    )


def test_what_a_name_resolves_to_is_said(server: NameServer) -> None:
    (finding,) = find_instances(settings(server, "http://10.0.0.9:1", SOURCE))
    assert finding.location == ("agents", 0, "instances", 1)
    assert finding.urls == ("http://10.0.0.1:8080", "http://10.0.0.2:8080")
    assert not finding.fault


def test_a_name_that_does_not_exist_is_said(server: NameServer) -> None:
    (finding,) = find_instances(settings(server, "dns://nobody.test:8080"))
    assert (finding.urls, finding.fault) == ((), "there is no such name")


def test_nobody_waits_for_a_name_server_that_is_silent(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_check, "LIMIT_S", 0.1)
    server.is_silent = True
    (finding,) = find_instances(settings(server, SOURCE))
    assert finding.fault == "no answer within 0.1 s"


def test_agents_of_another_regions_gateway_are_not_asked(server: NameServer) -> None:
    assert find_instances(settings(server, SOURCE, region="eu")) == []
    assert not server.questions


@pytest.mark.parametrize(
    ("source", "module"),
    [(SOURCE, "aiodns"), ("kubernetes://default/support:http", "kubernetes_asyncio")],
)
def test_a_library_that_is_not_installed_is_said(
    source: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(missing_libraries(settings(None, source))) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (concern,) = missing_libraries(settings(None, source))
    assert concern.severity is Severity.REFUSED
    assert concern.message.startswith(f"needs {module}, which is not installed: pip install")


def test_the_command_prints_it_beside_the_configuration(server: NameServer, tmp_path: Path) -> None:
    file = tmp_path / "patchbay.toml"
    file.write_text(
        f'[server]\nnameservers = ["{server.address}"]\n[store]\nurl = "sqlite:///{tmp_path}/p.db"\n'
        f'[[agents]]\nname = "support"\norganization = "acme"\n'
        f'instances = ["{SOURCE}", "dns://nobody.test:1"]\n'
    )
    result = CliRunner().invoke(app, ["check", "--config", str(file)])
    assert result.exit_code == 0
    assert f"Found: {SOURCE}: 2: http://10.0.0.1:8080 http://10.0.0.2:8080" in result.stderr
    assert "Doubtful: agents[0].instances[1] (" in result.stderr
    assert "there is no such name" in result.stderr
    assert result.stdout.startswith("[server]")
