# SPDX-License-Identifier: BSD-2-Clause
"""The systemd units: systemd's own checks, and a systemd that runs gateways, reloads and replaces them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import load
from gateway.simulator.waiting import WAIT_S, wait_until
from tests.interop.containers import ROOT, RUN_S, Engine

UNITS = ROOT / "deploy" / "systemd"
MOST_EXPOSED = 2.1
"""What `systemd-analyze security` may say at most: 0 is locked up, 10 has no limits."""

MACHINE = """\
FROM {image}
USER 0
ENV PATCHBAY_SERVER__HOST= PATCHBAY_SERVER__PORT=
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends systemd systemd-sysv dbus procps
COPY . /units
RUN install -D -t /etc/systemd/system /units/*.service \\
    && install -t /usr/local/sbin /units/patchbay-replace \\
    && install -D /units/patchbay.sysusers /usr/lib/sysusers.d/patchbay.conf \\
    && systemd-sysusers \\
    && mkdir -p /opt/patchbay/blue/bin /opt/patchbay/green/bin \\
    && ln -s /opt/patchbay/bin/patchbay /opt/patchbay/blue/bin \\
    && ln -s /opt/patchbay/bin/patchbay /opt/patchbay/green/bin
COPY patchbay.toml /etc/patchbay/
RUN chown root:patchbay /etc/patchbay/patchbay.toml && chmod 640 /etc/patchbay/patchbay.toml
"""

CONFIGURATION = """\
[server]
drain_timeout = 60

[[organizations]]
name = "acme"

[[agents]]
name = "support"
organization = "acme"
command = ["/opt/patchbay/bin/patchbay", "agent", "--host={host}", "--port={port}", "--no-greeting"]
min_agents = 1
max_agents = 1
"""

CALL = ("call", "ws://127.0.0.1:7860", "--carrier=twilio", "--agent=support.acme", "--expect-audio", "--json")
BLUE, GREEN = "patchbay@blue", "patchbay@green"


def settings_of(unit: str) -> dict[str, str]:
    """Return what stands behind each key of a unit, the last where there are several."""
    pairs = (line.partition("=") for line in (UNITS / unit).read_text().splitlines() if line[:1] not in "#[")
    return {key: value for key, _, value in pairs if key}


@pytest.fixture
def runnable(tmp_path: Path) -> list[Path]:
    """The units with a program that is there in place of the gateway, which the checks look for."""
    copies = []
    for unit in sorted(UNITS.glob("*.service")):
        copy = tmp_path / unit.name
        text = unit.read_text().replace("/opt/patchbay/%i/bin/patchbay", "/bin/true")
        copy.write_text(text.replace("/opt/patchbay/bin/patchbay", "/bin/true"))
        copies.append(copy)
    assert len(copies) == 2
    return copies


def test_systemd_finds_nothing_wrong_with_the_units(runnable: list[Path]) -> None:
    finished = subprocess.run(
        ["systemd-analyze", "verify", *runnable], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, "")


def test_a_gateway_may_do_no_more_than_it_needs(runnable: list[Path]) -> None:
    check = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    check.append(f"--threshold={int(MOST_EXPOSED * 10)}")
    for unit in runnable:
        finished = subprocess.run([*check, unit], capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert finished.returncode == 0, finished.stdout[-2000:]


def test_both_units_give_calls_the_same(runnable: list[Path]) -> None:
    one, other = settings_of("patchbay.service"), settings_of("patchbay@.service")
    differing = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    assert differing == {"Description", "ExecStart", "EnvironmentFile", "ExecStartPost", "ExecStopPost"}
    assert float(one["TimeoutStopSec"]) == load(None, {}).server.drain_timeout + 60
    assert (one["KillMode"], one["OOMPolicy"], one["Type"]) == ("process", "continue", "notify")


@pytest.fixture(scope="module")
def machine(engine: Engine, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a container whose first process is systemd, whose gateways start their agent."""
    context = tmp_path_factory.mktemp("machine")
    for file in UNITS.iterdir():
        (context / file.name).write_bytes(file.read_bytes())
        (context / file.name).chmod(file.stat().st_mode)
    (context / "patchbay.toml").write_text(CONFIGURATION)
    (context / "Dockerfile").write_text(MACHINE.format(image=image))
    engine.build("localhost/patchbay-machine", context)
    name = "patchbay-machine"
    engine.remove(name)
    options = ("--systemd=always", "--privileged", "--entrypoint=[]")
    try:
        engine.container(name, "localhost/patchbay-machine", *options, command=["/lib/systemd/systemd"])
        state = ("exec", name, "systemctl", "is-system-running")
        wait_until(lambda: engine.run(*state, check=False).strip() in {"running", "degraded"}, "systemd runs")
        yield name
    finally:
        engine.remove(name)


def health(engine: Engine, machine: str, where: str) -> bool:
    return engine.succeeds("exec", machine, "patchbay", "health", f"http://127.0.0.1:{where}")


def states(engine: Engine, machine: str) -> list[str]:
    """Whether blue and green run."""
    return engine.run("exec", machine, "systemctl", "is-active", BLUE, GREEN, check=False).split()


def show(engine: Engine, machine: str, unit: str, key: str) -> str:
    return engine.run("exec", machine, "systemctl", "show", f"--property={key}", "--value", unit).strip()


def agent_of(engine: Engine, machine: str) -> str:
    """Return the process id of the one agent that runs, "" for none."""
    return engine.run("exec", machine, "pgrep", "-f", "patchbay agent --host", check=False).strip()


def test_a_gateway_is_started_reloaded_replaced_and_started_again(engine: Engine, machine: str) -> None:
    """The whole life of two units: a call that blue took is finished by blue, while green has the port.

    Their agent is the same from blue's start to green's stop, and can write to its /tmp all the while.
    """
    assert engine.run("exec", machine, "patchbay-replace", "blue") == "patchbay@blue.service has the port\n"
    engine.run("exec", machine, "systemctl", "reload", BLUE)
    journal = ("exec", machine, "journalctl", "--no-pager", "--output=cat", f"--unit={BLUE}")
    wait_until(lambda: "configuration read again" in engine.run(*journal), "blue reads it again")

    wait_until(lambda: agent_of(engine, machine).isdigit(), "blue has started an agent")
    agent = agent_of(engine, machine)
    writes = ("exec", machine, "nsenter", f"--target={agent}", "--mount", "mktemp")
    call = engine.start("exec", machine, "patchbay", *CALL)
    try:
        status = ("exec", machine, "patchbay", "health", "http://127.0.0.1:7860/status")
        wait_until(lambda: '"running":1' in engine.run(*status, check=False), "the call runs")
        said = engine.run("exec", machine, "patchbay-replace", "green")
        assert said.endswith(
            "patchbay@green.service has the port; patchbay@blue.service finishes its calls\n"
        )
        assert states(engine, machine) == ["active", "active"]
        output, _ = call.communicate(timeout=RUN_S)
    finally:
        call.kill()
    assert call.returncode == 0, output
    assert json.loads(output[output.index("{") :])["ok"]
    wait_until(lambda: states(engine, machine) == ["inactive", "active"], "blue has ended")
    assert show(engine, machine, BLUE, "Result") == "success"
    assert agent_of(engine, machine) == agent
    engine.run(*writes)
    enabled = engine.run("exec", machine, "systemctl", "is-enabled", BLUE, GREEN, check=False).split()
    assert enabled == ["disabled", "enabled"]
    assert "runs already" in engine.run("exec", machine, "patchbay-replace", "green", check=False)

    killed = show(engine, machine, GREEN, "MainPID")
    engine.run("exec", machine, "kill", "-KILL", killed)
    wait_until(lambda: show(engine, machine, GREEN, "NRestarts") == "1", "systemd starts it again")
    wait_until(lambda: states(engine, machine)[1] == "active", "green takes calls again")
    assert agent_of(engine, machine) == agent
    engine.run(*writes)

    broken = "echo '[sever]' >>/etc/patchbay/patchbay.toml"
    engine.run("exec", machine, "sh", "-c", broken)
    assert not engine.succeeds("exec", machine, "systemctl", "reload", GREEN), "check says why"
    assert not engine.succeeds("exec", machine, "patchbay-replace", "blue")
    assert states(engine, machine) == ["inactive", "active"], "green goes on"
    assert health(engine, machine, "7860/readyz")
    assert not engine.succeeds("exec", machine, "ls", "/run/patchbay-replace-blue")

    engine.run("exec", machine, "systemctl", "stop", GREEN)
    wait_until(lambda: agent_of(engine, machine) == "", "the agent is stopped")
    assert (show(engine, machine, GREEN, "Result"), show(engine, machine, GREEN, "ExecMainStatus")) == (
        "success",
        "0",
    )
