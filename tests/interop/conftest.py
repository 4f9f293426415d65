# SPDX-License-Identifier: BSD-2-Clause
"""A bot made with other people's software, and a gateway before it, each a process of its own."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.harness.ports import LOOPBACK, unasked_port

Found = TypeVar("Found")

START_TIMEOUT_S = 60.0
"""How long a process may take to answer: the bot's libraries are large, and at first in no cache."""

STOP_TIMEOUT_S = 10.0
SETTLE_TIMEOUT_S = 30.0
"""How long after a call its end may take to arrive where it is looked for."""

POLL_S = 0.05

ROOT = Path(__file__).parents[2]
BOT_PYTHON = ROOT / ".venv-interop" / "bin" / "python"
STORE = "sessions.db"

CONFIG = """\
[server]
port = {port}

[store]
url = "sqlite:///{store}"

[[agents]]
name = "echo"
organization = "interop"
instances = ["{bot}"]
sessions_per_instance = 1
"""


@pytest.fixture(scope="session")
def run_bot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Runs a bot's file of this folder under Pipecat's development runner, to the end of the tests; its URL.

    Its environment holds no carrier's credentials.
    """
    if not BOT_PYTHON.exists():
        pytest.fail("there is no .venv-interop: `make interop` makes it and runs these tests")
    with ExitStack() as running:

        def run(file: str) -> str:
            folder = tmp_path_factory.mktemp("bot")
            url, port = _free_address()
            command = [BOT_PYTHON, Path(__file__).with_name(file), "--host", LOOPBACK, "--port", str(port)]
            environment = {"PATH": os.defpath, "HOME": str(folder)}
            running.enter_context(_process("the bot", command, f"{url}/calls", folder, environment))
            return url

        yield run


@pytest.fixture(scope="session")
def bot_url(run_bot: Callable[[str], str]) -> str:
    """The bot of the carriers' calls."""
    return run_bot("bot.py")


@pytest.fixture(scope="session")
def gateway_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the gateway's files are."""
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="session")
def gateway_url(bot_url: str, gateway_folder: Path) -> Iterator[str]:
    """What carriers dial: `patchbay serve`, with the bot as the one instance of echo.interop.

    There is one place, so that a call is refused unless the call before it is over.
    """
    url, port = _free_address()
    config = gateway_folder / "patchbay.toml"
    config.write_text(CONFIG.format(port=port, store=gateway_folder / STORE, bot=bot_url))
    command = [Path(sys.executable).with_name("patchbay"), "serve", "--config", config]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PATCHBAY_")}
    with _process("the gateway", command, f"{url}/readyz", gateway_folder, environment):
        yield url.replace("http", "ws")


@pytest.fixture
def calls_of_bot(bot_url: str) -> Callable[[], list[dict[str, Any]]]:
    """Every call the bot was given (bot.py, `calls`), once it is done with the last of them."""

    def all_over() -> list[dict[str, Any]] | None:
        with urllib.request.urlopen(f"{bot_url}/calls", timeout=SETTLE_TIMEOUT_S) as answer:
            calls: list[dict[str, Any]] = json.load(answer)
        return calls if all(call["over"] for call in calls) else None

    return lambda: _soon(all_over, "the bot was not done with its calls")


@pytest.fixture
def session_of(gateway_folder: Path) -> Callable[[str], dict[str, Any]]:
    """The gateway's record of a call, by the carrier's call id, once it is over."""

    def session(call_id: str) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            with closing(sqlite3.connect(f"file:{gateway_folder / STORE}?mode=ro", uri=True)) as store:
                store.row_factory = sqlite3.Row
                found = store.execute(
                    "SELECT * FROM session WHERE call_id = ? AND ended_at IS NOT NULL", (call_id,)
                ).fetchone()
            return dict(found) if found else None

        return _soon(ended, f"the session of call {call_id} did not end")

    return session


@contextmanager
def _process(
    name: str, command: Sequence[str | Path], ready_url: str, folder: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    """Runs the command in `folder`, from its first 200 on `ready_url` to the end of the block."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    try:
        while not _answers(ready_url):
            if process.poll() is not None:
                pytest.fail(f"{name} ended with status {process.returncode}:\n{log.read_text()}")
            if time.monotonic() > deadline:
                pytest.fail(f"{name} was not ready within {START_TIMEOUT_S:g} s:\n{log.read_text()}")
            time.sleep(POLL_S)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _soon(look: Callable[[], Found | None], otherwise: str) -> Found:
    """What `look` finds; it looks until there is something, and the test fails where there never is."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while (found := look()) is None:
        if time.monotonic() > deadline:
            pytest.fail(f"{otherwise} within {SETTLE_TIMEOUT_S:g} s")
        time.sleep(POLL_S)
    return found


def _free_address() -> tuple[str, int]:
    """The URL and the number of a port that is free now."""
    port = unasked_port()
    return f"http://{LOOPBACK}:{port}", port
