# SPDX-License-Identifier: BSD-2-Clause
"""Who is measured: nginx, haproxy, nobody in between, a naive relay, and Patchbay in its variants.

A new variant of Patchbay is one entry in VARIANTS.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.machine import CORES
from benchmarks.processes import listening
from gateway.simulator.server_process import StartError

HERE = Path(__file__).resolve().parent
PROXY_CORE, LOAD_CORE = CORES[0], CORES[1 % len(CORES)]  # of a second the command line makes sure

Setting = str | int | float | bool | list[str]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run Patchbay.

    `server`, `agent`, `limits`: settings added to [server], the agent's entry and [limits]. `tables`: more
    tables, each with its head. `environment`: variables of the process. `path`: where the carrier calls.
    `load_options`: words for wsload. `accelerated`: whether /status must name the accelerator; where none was
    built, the variant is left out and the report says so.
    """

    name: str
    server: Mapping[str, Setting] = field(default_factory=dict)
    agent: Mapping[str, Setting] = field(default_factory=dict)
    limits: Mapping[str, Setting] = field(default_factory=dict)
    tables: tuple[tuple[str, Mapping[str, Setting]], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    path: str = "/ws/twilio"
    load_options: tuple[str, ...] = ()
    accelerated: bool = False


PYTHON, ACCELERATED = "patchbay", "patchbay, accelerator"
BATCHING, COUPLING, TWO_WORKERS = ", batching", ", message coupling", ", two workers"
PURE_PYTHON = {"PATCHBAY_ACCELERATOR": "off"}

VARIANTS = (
    Variant(PYTHON, server={"relay_batch_ms": 0}, environment=PURE_PYTHON),
    Variant(PYTHON + BATCHING, server={"relay_batch_ms": 2}, environment=PURE_PYTHON),
    Variant(PYTHON + TWO_WORKERS, server={"relay_batch_ms": 0, "workers": 2}, environment=PURE_PYTHON),
    Variant(
        PYTHON + COUPLING, server={"relay_batch_ms": 0}, agent={"media": "messages"}, environment=PURE_PYTHON
    ),
    Variant(ACCELERATED, server={"relay_batch_ms": 0}, accelerated=True),
    Variant(ACCELERATED + BATCHING, server={"relay_batch_ms": 2}, accelerated=True),
    Variant(
        ACCELERATED + COUPLING, server={"relay_batch_ms": 0}, agent={"media": "messages"}, accelerated=True
    ),
    Variant(ACCELERATED + TWO_WORKERS, server={"relay_batch_ms": 0, "workers": 2}, accelerated=True),
)


DIRECT, HAPROXY = "direct", "haproxy"
NAMES = (DIRECT, HAPROXY, *(variant.name for variant in VARIANTS))
"""Who can be selected; nginx and the naive relay come along."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody the same load is put through. Without a command: nobody, the load talks to its own agent."""

    name: str
    url: str
    port: int = 0
    command: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)  # name: text, written afresh before each start
    environment: Mapping[str, str] = field(default_factory=dict)
    load_options: tuple[str, ...] = ()
    ready_path: str | None = None
    cores: Collection[int] = (PROXY_CORE,)
    accelerated: bool = False

    def on(self, cores: Collection[int]) -> Contender:
        """The same on other cores."""
        return replace(self, cores=tuple(cores))

    @contextlib.contextmanager
    def running(self) -> Iterator[list[int]]:
        """Starts it in an empty directory of its own; gives the ids of its processes."""
        if not self.command:
            yield []
            return
        with tempfile.TemporaryDirectory(prefix="patchbay-bench-") as name:
            directory = Path(name)
            directory.chmod(0o755)  # nginx's worker is another user when its master is root
            for file, text in self.files.items():
                (directory / file).write_text(text.replace("@DIR@", name))
            command = [word.replace("@DIR@", name) for word in self.command]
            with listening(
                command,
                self.port,
                cores=self.cores,
                environment=self.environment,
                log=directory / "output.log",
                ready_path=self.ready_path,
            ) as pids:
                yield pids


def template(name: str, port: int, agent_port: int) -> dict[str, str]:
    text = (HERE / name).read_text()
    return {name: text.replace("@PORT@", str(port)).replace("@AGENT@", str(agent_port))}


def direct(agent_port: int) -> Contender:
    """Nobody in between."""
    return Contender(DIRECT, f"ws://127.0.0.1:{agent_port}/ws")


def nginx(port: int, agent_port: int) -> Contender:
    """The yardstick."""
    return Contender(
        "nginx",
        f"ws://127.0.0.1:{port}/ws",
        port,
        ("nginx", "-c", "@DIR@/nginx.conf"),
        template("nginx.conf", port, agent_port),
    )


def haproxy(port: int, agent_port: int) -> Contender:
    """The other yardstick."""
    return Contender(
        HAPROXY,
        f"ws://127.0.0.1:{port}/ws",
        port,
        ("haproxy", "-q", "-db", "-f", "@DIR@/haproxy.cfg"),
        template("haproxy.cfg", port, agent_port),
    )


def nginx_refusing(port: int) -> Contender:
    """nginx that answers every request with 503 itself."""
    return Contender(
        "nginx",
        f"http://127.0.0.1:{port}",
        port,
        ("nginx", "-c", "@DIR@/nginx-refuse.conf"),
        template("nginx-refuse.conf", port, 0),
    )


def naive(port: int, agent_port: int) -> Contender:
    """naive_relay.py."""
    return Contender(
        "naive relay",
        f"ws://127.0.0.1:{port}/ws",
        port,
        (sys.executable, str(HERE / "naive_relay.py"), str(port), str(agent_port)),
    )


def patchbay(variant: Variant, port: int, agent_port: int) -> Contender:
    """The gateway as it is served anywhere: sessions, records, metrics and logs on, store in a file."""
    return Contender(
        variant.name,
        f"ws://127.0.0.1:{port}{variant.path}",
        port,
        (sys.executable, "-m", "gateway.cli", "serve", "--config", "@DIR@/patchbay.toml"),
        {"patchbay.toml": configuration(variant, port, agent_port)},
        variant.environment,
        ("--parameter", "_pipecatCloudServiceHost=echo.bench", *variant.load_options),
        "/readyz",
        accelerated=variant.accelerated,
    )


def configuration(variant: Variant, port: int, agent_port: int) -> str:
    """A patchbay.toml with one agent, the echo behind `agent_port`, and room for every call of the bench."""
    server = {"host": "127.0.0.1", "port": port, "workers": 1, **variant.server}
    agent = {
        "name": "echo",
        "organization": "bench",
        "region": "us-west",
        "instances": [f"http://127.0.0.1:{agent_port}"],
        "sessions_per_instance": 20000,
        "max_agents": 50,
        **variant.agent,
    }
    tables: list[tuple[str, Mapping[str, Setting]]] = [
        ("[server]", server),
        ("[store]", {"url": "sqlite:///@DIR@/patchbay.db"}),
        ("[[organizations]]", {"name": "bench"}),
        ("[limits]", variant.limits),
        ("[[agents]]", agent),
        *variant.tables,
    ]
    return toml(tables)


def toml(tables: Iterable[tuple[str, Mapping[str, Setting]]]) -> str:
    """A configuration file of these tables, each under its head."""
    lines: list[str] = []
    for head, settings in tables:
        # JSON's strings, numbers, booleans and lists of them are TOML's too.
        lines += [head, *(f"{key} = {json.dumps(value)}" for key, value in settings.items()), ""]
    return "\n".join(lines)


def status(port: int) -> dict[str, object]:
    """What a running gateway says of itself under /status. Raises StartError when it says nothing."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=3) as answer:
            said: dict[str, object] = json.load(answer)
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise StartError(f"no /status on port {port}: {error}") from error
    return said


def accelerator_runs(said: Mapping[str, object]) -> bool:
    """Whether a gateway's /status names an accelerator (`"accelerator": true`, or what it is called)."""
    return said.get("accelerator") not in (None, False, "", "off", "none", "python")
