# SPDX-License-Identifier: BSD-2-Clause
"""The image: built as the Dockerfile says, run by nobody special who may write to the store alone."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.waiting import WAIT_S, wait_until
from tests.interop.containers import ROOT, RUN_S, Engine
from tests.interop.shipping import tool

CONFIGURATION = """\
[server]
drain_timeout = 60

[[organizations]]
name = "acme"

[[agents]]
name = "support"
organization = "acme"
instances = ["http://127.0.0.1:8080"]
websocket_auth = "none"
"""

LOCKED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
"""What compose.yaml and the chart allow a gateway."""

CALL = ("call", "ws://127.0.0.1:7860", "--carrier=twilio", "--agent=support.acme", "--expect-audio", "--json")


@pytest.fixture(scope="module")
def gateway(engine: Engine, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a container with a gateway, and beside it one with an agent."""
    folder = tmp_path_factory.mktemp("configuration")
    folder.chmod(0o755)
    (folder / "patchbay.toml").write_text(CONFIGURATION)
    name, agent = "patchbay-gateway", "patchbay-agent"
    engine.remove(name, agent)
    try:
        engine.container(name, image, *LOCKED, f"--volume={folder}:/etc/patchbay:ro")
        beside = f"--network=container:{name}"
        engine.container(agent, image, *LOCKED, beside, command=["agent", "--no-greeting", "--delay=0.2"])
        wait_until(lambda: engine.succeeds("healthcheck", "run", name), "the gateway is well")
        asked = ("exec", name, "patchbay", "health", "http://127.0.0.1:8080/readyz")
        wait_until(lambda: engine.succeeds(*asked), "the agent is ready")
        yield name
    finally:
        engine.remove(agent, name)


def lines(engine: Engine, name: str) -> list[dict[str, Any]]:
    log = engine.run("logs", name)
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def test_the_linter_has_nothing_to_say() -> None:
    finished = subprocess.run(
        [tool("hadolint"), "--failure-threshold=style", ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (finished.returncode, finished.stdout) == (0, "")


def test_the_image_is_for_a_user_without_rights(engine: Engine, image: str) -> None:
    (about,) = json.loads(engine.run("image", "inspect", image))
    assert about["Config"]["User"] == "10001:10001"
    assert about["Config"]["StopSignal"] == "SIGTERM"
    assert about["Config"]["Entrypoint"] == ["patchbay"]
    assert about["Config"]["Cmd"] == ["serve", "--config", "/etc/patchbay/patchbay.toml"]
    assert about["Healthcheck"]["Test"] == ["CMD", "patchbay", "health"]


def test_the_image_has_no_installer_and_nothing_that_its_user_may_change(engine: Engine, image: str) -> None:
    everything = engine.once(image, "find", "/opt/patchbay").splitlines()
    assert "/opt/patchbay/bin/patchbay" in everything
    assert [name for name in everything if "/site-packages/pip/" in name or "/pytest/" in name] == []
    folders = ("/bin", "/etc", "/opt", "/usr", "/var")
    own = engine.once(image, "find", *folders, "-xdev", "-writable", "-not", "-type", "l").splitlines()
    changeable = {name for name in own if name.startswith("/")}
    assert changeable == {"/var/lib/patchbay", "/var/tmp"}


def test_python_compiles_nothing_when_the_gateway_starts(engine: Engine, image: str) -> None:
    """It cannot write what it has compiled, and would do it again at every start."""
    loads = "import gateway.server.worker, gateway.store.redis.redis_store"
    loaded = engine.once(image, "python", "-v", "-c", loads).splitlines()
    assert [line for line in loaded if re.match(r"# code object from '?/opt/patchbay/.*\.py'?$", line)] == []
    assert [
        line for line in loaded if re.match(r"# code object from '?/opt/patchbay/.*/gateway/.*\.pyc'?$", line)
    ]


def test_a_call_is_relayed_and_a_stop_lets_it_finish(engine: Engine, gateway: str, image: str) -> None:
    """`docker stop` in the middle of a call: the caller hears the agent to the end, and the status is 0."""
    beside = (f"--network=container:{gateway}", *engine.limits)
    call = engine.start("run", "--rm", *beside, image, *CALL)
    try:
        status = ("exec", gateway, "patchbay", "health", "http://127.0.0.1:7860/status")
        wait_until(lambda: '"running":1' in engine.run(*status, check=False), "the call runs")
        engine.run("stop", f"--time={RUN_S}", gateway)
        said, _ = call.communicate(timeout=RUN_S)
    finally:
        call.kill()
    assert call.returncode == 0, said
    assert json.loads(said[said.index("{") :])["ok"]
    state = engine.state(gateway)
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    (ready,) = [line for line in lines(engine, gateway) if line["event"] == "patchbay"]
    assert ready["accelerator"] == "c"
    assert ready["address"] == "0.0.0.0:7860"
    (ended,) = [line for line in lines(engine, gateway) if line["event"] == "call ended"]
    assert ended["reason"] == "caller_hangup"


def test_what_the_gateway_writes_outlives_its_container(engine: Engine, image: str, tmp_path: Path) -> None:
    """The store is in the volume: the same file is there for the next version."""
    config = tmp_path / "patchbay.toml"
    config.write_text(CONFIGURATION)
    tmp_path.chmod(0o755)
    volume, options = "patchbay-store", (*LOCKED, f"--volume={tmp_path}:/etc/patchbay:ro")
    names, files = ("patchbay-first", "patchbay-second"), []
    engine.remove(*names)
    engine.run("volume", "rm", "--force", volume, check=False)
    try:
        for name in names:
            engine.container(name, image, *options, f"--volume={volume}:/var/lib/patchbay")
            wait_until(lambda name=name: engine.succeeds("healthcheck", "run", name), "the gateway is well")  # type: ignore[misc]
            files.append(engine.run("exec", name, "stat", "--format=%i %u %a", "patchbay.db"))
            engine.run("stop", "--time=60", name)
    finally:
        engine.remove(*names)
        engine.run("volume", "rm", "--force", volume, check=False)
    assert files[0] == files[1]
    assert files[0].split()[1:] == ["10001", "600"]
