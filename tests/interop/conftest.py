# SPDX-License-Identifier: BSD-2-Clause
"""Fixtures: a bot made with other people's software, and a gateway in front of it, as processes."""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.free_ports import LOOPBACK, free_port
from gateway.simulator.gateway_process import GatewayProcess
from gateway.simulator.server_process import ServerProcess, answers
from gateway.simulator.waiting import WAIT_S, wait_until
from tests.harness.prepared_process import patchbay_starts_anew  # noqa: F401 - a fixture
from tests.interop.containers import Engine

ROOT = Path(__file__).parents[2]
BOT_PYTHON = ROOT / ".venv-interop" / "bin" / "python"


def listens(port: int) -> bool:
    """Return True if something accepts connections there."""
    try:
        socket.create_connection((LOOPBACK, port), WAIT_S).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def interop_python() -> Path:
    """The Python of the environment with other people's software."""
    if not BOT_PYTHON.exists():
        pytest.fail("there is no .venv-interop: `make interop` makes it and runs these tests")
    return BOT_PYTHON


@pytest.fixture(scope="session")
def run_bot(tmp_path_factory: pytest.TempPathFactory, interop_python: Path) -> Iterator[Callable[..., str]]:
    """Run a bot of this folder until the tests end; return its URL.

    A bot is a program with `--host` and `--port`; Pipecat's development runner makes one of a bot. `more`:
    arguments of its own. `ready`: what it answers GET with 200 once it takes calls; None if it is enough that
    it listens. `python`: of another environment. A bot's environment holds no carrier's credentials.
    """
    with ExitStack() as running:

        def run(
            file: str | Path, *more: str | Path, ready: str | None = "/calls", python: Path = interop_python
        ) -> str:
            folder = tmp_path_factory.mktemp("bot")
            port = free_port()
            url = f"http://{LOOPBACK}:{port}"
            program = Path(__file__).parent / file
            command = [python, program, "--host", LOOPBACK, "--port", str(port), *more]
            environment = {"PATH": os.defpath, "HOME": str(folder)}
            bot = ServerProcess("the bot", command, folder / "log", cwd=folder, environment=environment)
            running.enter_context(bot).wait_until_ready(
                lambda: listens(port) if ready is None else answers(f"{url}{ready}")
            )
            return url

        yield run


@pytest.fixture(scope="session")
def bot_url(run_bot: Callable[..., str]) -> str:
    """The URL of the bot for carriers' calls."""
    return run_bot("bot.py")


@pytest.fixture(scope="session")
def protobuf_bot(run_bot: Callable[..., str]) -> str:
    """The URL of the bot for web clients."""
    return run_bot("protobuf_bot.py")


@pytest.fixture(scope="session")
def gateway(bot_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with the bot as the one instance of echo.interop.

    It has one slot, so that a call is refused unless the call before it is over.
    """
    agent = {"name": "echo", "organization": "interop", "instances": [bot_url], "sessions_per_instance": 1}
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), {"agents": [agent]}) as running:
        yield running


@pytest.fixture
def gateway_url(gateway: GatewayProcess) -> str:
    """The base URL that carriers dial."""
    return gateway.media_url


@pytest.fixture
def calls_of_bot(bot_url: str) -> Callable[[], list[dict[str, Any]]]:
    """Return every call that the bot was given (bot.py, `calls`), once the last of them is over."""

    def all_over() -> list[dict[str, Any]] | None:
        with urllib.request.urlopen(f"{bot_url}/calls", timeout=WAIT_S) as response:
            calls: list[dict[str, Any]] = json.load(response)
        return calls if all(call["over"] for call in calls) else None

    return lambda: wait_until(all_over, "the bot is done with its calls") or []


@pytest.fixture
def session_of(gateway: GatewayProcess) -> Callable[[str], dict[str, Any]]:
    """Return the gateway's record of a call by the carrier's call id, once it is over."""
    return gateway.ended_session


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine that builds and runs containers."""
    return Engine(ROOT / ".venv-interop" / "containers")


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The name of the image that the Dockerfile makes of this checkout."""
    return engine.make_gateway_image()
