# SPDX-License-Identifier: BSD-2-Clause
"""The gateway as the first process of a container: signals reach it, and no zombie is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.server.init_process import become_child_of_init
from gateway.simulator.gateway_process import to_toml
from gateway.simulator.server_process import PATCHBAY, environment_without_settings
from gateway.simulator.waiting import WAIT_S

CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""The command that runs a program as the first process of a PID namespace."""

FIRST_PROCESS = "from gateway.server.init_process import become_child_of_init; become_child_of_init()\n"

ORPHAN = """
import os, time
from pathlib import Path

def state(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""

told, tell = os.pipe()
if not (bot := os.fork()):
    if not (orphan := os.fork()):
        time.sleep(0.05)
        os._exit(0)
    os.write(tell, str(orphan).encode())
    os._exit(0)
os.waitpid(bot, 0)
orphan = int(os.read(told, 20))
deadline = time.monotonic() + 60
while state(orphan) and time.monotonic() < deadline:
    time.sleep(0.01)
print(os.getppid(), repr(state(orphan)))
"""

SIGNALS = """
import os, signal, time
got = []
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: got.append(signal.Signals(number).name))
while len(got) < 3:
    os.kill(1, (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM)[len(got)])
    time.sleep(0.05)
print(got)
"""


@pytest.fixture(autouse=True)
def pid_namespaces() -> None:
    if not shutil.which("unshare") or subprocess.run([*CONTAINER, "true"], check=False).returncode:
        pytest.skip("processes of one's own namespace are not allowed here")


def in_container(program: str) -> subprocess.CompletedProcess[str]:
    """Run lines of Python as the child of a container's first process."""
    return subprocess.run(
        [*CONTAINER, sys.executable, "-c", FIRST_PROCESS + program],
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
        check=False,
    )


def test_elsewhere_the_gateway_is_the_process_that_was_started() -> None:
    before = os.getpid(), os.getpgrp()
    become_child_of_init()
    assert (os.getpid(), os.getpgrp()) == before


def test_a_process_whose_parent_has_ended_leaves_no_zombie() -> None:
    """As what a bot has started, when the bot ends."""
    finished = in_container(ORPHAN)
    assert (finished.stdout, finished.stderr) == ("1 ''\n", "")


def test_signals_for_the_container_come_to_the_gateway() -> None:
    finished = in_container(SIGNALS)
    assert (finished.stdout, finished.stderr) == ("['SIGHUP', 'SIGUSR1', 'SIGTERM']\n", "")


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("os._exit(0)", 0),
        ("os._exit(3)", 3),
        ("os.kill(os.getpid(), 9)", 128 + signal.SIGKILL),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, ()) or os.kill(1, 15) or signal.pause()", 128 + 15),
    ],
)
def test_the_container_ends_as_the_gateway_does(end: str, status: int) -> None:
    """Also by a SIGTERM that comes before the gateway has a handler for it: to a first process it is lost."""
    assert in_container(f"import os, signal\n{end}").returncode == status


def test_sigterm_to_a_container_drains_its_gateway(tmp_path: Path) -> None:
    """Process 1 of the container gets it, as from `docker stop` or a kubelet."""
    config = tmp_path / "patchbay.toml"
    server = {"port": 0, "log_format": "json"}
    agents = [{"name": "support", "organization": "acme"}]
    config.write_text(to_toml({"server": server, "agents": agents}))
    script = (
        'until grep -q \'"event": "patchbay"\' log; do sleep 0.1; done; kill -HUP 1\n'
        "until grep -q 'configuration read again' log; do sleep 0.1; done; kill -TERM 1"
    )
    command = [*PATCHBAY, "serve", "--config", config]
    finished = subprocess.run(
        [*CONTAINER, "sh", "-c", f'({script}) & exec "$@" 2>log', "sh", *command],
        cwd=tmp_path,
        env=environment_without_settings(),
        timeout=WAIT_S * 2,
        check=False,
    )
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert finished.returncode == 0, lines
    (ready,) = [line for line in lines if line["event"] == "patchbay"]
    assert ready["pid"] != 1
