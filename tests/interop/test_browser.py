# SPDX-License-Identifier: BSD-2-Clause
"""A web page in a real Chromium starts a session with Pipecat's browser client, and talks to a Pipecat bot.

The page (browser/page.js) is of another origin than the gateway, as a site's is (docs/api.md, "From a web
page"). The bot is protobuf_bot.py.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.free_ports import LOOPBACK
from gateway.simulator.gateway_process import GatewayProcess
from gateway.simulator.waiting import WAIT_S, wait_until

HERE = Path(__file__).parent / "browser"
PACKAGES = HERE.parents[2] / ".venv-interop" / "browser" / "node_modules"
KEY = "pk_0123456789abcdef0123"
CALL_S = 2 * WAIT_S
"""Seconds for a browser to start and a call to be over."""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, *_: object) -> None: ...


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """A web site on a port of its own, which makes it an origin of its own; its URL."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer((LOOPBACK, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{LOOPBACK}:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.fail("there is no Chromium: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page, its script in one file."""
    if not PACKAGES.exists():
        pytest.fail("the browser client is not installed: `make interop` does it, with node 20 and npm")
    folder = tmp_path_factory.mktemp("site")
    work = PACKAGES.parent
    for script in ("page.js", "drive.js"):
        shutil.copy(HERE / script, work)
    bundle = ["node", PACKAGES / "esbuild" / "bin" / "esbuild", "page.js", "--bundle", "--log-level=warning"]
    subprocess.run([*bundle, f"--outfile={folder}/page.js"], cwd=work, check=True, timeout=WAIT_S)
    (folder / "index.html").write_text('<!doctype html><title>A page</title><script src="page.js"></script>')
    return folder


@pytest.fixture(scope="module")
def our_site(page: Path) -> Iterator[str]:
    """The site that the gateway lists."""
    with site(page) as origin:
        yield origin


@pytest.fixture(scope="module")
def other_site(page: Path) -> Iterator[str]:
    """A site that it does not list."""
    with site(page) as origin:
        yield origin


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, protobuf_bot: str, our_site: str
) -> Iterator[GatewayProcess]:
    """A gateway with `allowed_origins`: one site."""
    agent = {"name": "talk", "organization": "acme", "instances": [protobuf_bot], "websocket_auth": "token"}
    settings = {
        "server": {"allowed_origins": [our_site]},
        "organizations": [{"name": "acme", "public_keys": [KEY]}],
        "agents": [agent],
    }
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), settings) as running:
        yield running


@pytest.fixture
def visit(chromium: str, gateway: GatewayProcess) -> Callable[[str], dict[str, Any]]:
    """Open a site's page in Chromium; return what it told about the session that it started."""

    def told(origin: str) -> dict[str, Any]:
        command = ["node", "drive.js", chromium, f"{origin}/", gateway.url, KEY]
        work = PACKAGES.parent
        run = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=CALL_S, check=False)
        assert run.returncode == 0, run.stderr
        said: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
        return said | {"console": run.stderr}

    return told


def test_a_page_of_a_listed_site_starts_a_session_and_hears_the_bot(
    visit: Callable[[str], dict[str, Any]], gateway: GatewayProcess, our_site: str
) -> None:
    told = visit(our_site)
    assert "error" not in told, told["console"]
    assert told["states"][-4:] == ["connected", "ready", "disconnecting", "disconnected"]
    ended = wait_until(
        lambda: [row for row in gateway.sessions(told["session"]) if row["ended_at"] is not None],
        "the session of the page ends",
    )
    assert (ended[0]["reason"], ended[0]["side"]) == ("caller_hangup", "caller")
    assert ended[0]["first_agent_sound_at"] is not None


def test_a_page_of_any_other_site_starts_nothing(
    visit: Callable[[str], dict[str, Any]], gateway: GatewayProcess, other_site: str
) -> None:
    before = gateway.sessions()
    told = visit(other_site)
    assert told["error"] == "Failed to fetch"
    assert "blocked by CORS policy" in told["console"]
    assert gateway.sessions() == before
