# SPDX-License-Identifier: BSD-2-Clause
"""The contenders: nginx, haproxy, a direct connection, a naive relay, and Patchbay's variants.

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
"""The names that can be selected; nginx and the naive relay always take part."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A contender. Without a command the load talks to its own agent directly."""

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
        """Return this contender on other cores."""
        return replace(self, cores=tuple(cores))

    @contextlib.contextmanager
    def running(self) -> Iterator[list[int]]:
        """Start the contender in an empty directory; give the ids of its processes."""
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
    """Return the direct connection between the load and its agent."""
    return Contender(DIRECT, f"ws://127.0.0.1:{agent_port}/ws")


def nginx(port: int, agent_port: int) -> Contender:
    """Return nginx, which everything is compared with."""
    return Contender(
        "nginx",
        f"ws://127.0.0.1:{port}/ws",
        port,
        ("nginx", "-c", "@DIR@/nginx.conf"),
        template("nginx.conf", port, agent_port),
    )


def haproxy(port: int, agent_port: int) -> Contender:
    """Return haproxy."""
    return Contender(
        HAPROXY,
        f"ws://127.0.0.1:{port}/ws",
        port,
        ("haproxy", "-q", "-db", "-f", "@DIR@/haproxy.cfg"),
        template("haproxy.cfg", port, agent_port),
    )


def nginx_refusing(port: int) -> Contender:
    """Return an nginx that answers every request with 503 itself."""
    return Contender(
        "nginx",
        f"http://127.0.0.1:{port}",
        port,
        ("nginx", "-c", "@DIR@/nginx-refuse.conf"),
        template("nginx-refuse.conf", port, 0),
    )


def naive(port: int, agent_port: int) -> Contender:
    """Return naive_relay.py."""
    return Contender(
        "naive relay",
        f"ws://127.0.0.1:{port}/ws",
        port,
        (sys.executable, str(HERE / "naive_relay.py"), str(port), str(agent_port)),
    )


def patchbay(variant: Variant, port: int, agent_port: int) -> Contender:
    """Return a gateway as an operator runs it: sessions, records, metrics and logs on, store in a file."""
    return Contender(
        variant.name,
        f"ws://127.0.0.1:{port}{variant.path}",
        port,
        (sys.executable, "-m", "gateway", "serve", "--config", "@DIR@/patchbay.toml"),
        {"patchbay.toml": configuration(variant, port, agent_port)},
        variant.environment,
        ("--parameter", "_pipecatCloudServiceHost=echo.bench", *variant.load_options),
        "/readyz",
        accelerated=variant.accelerated,
    )


def configuration(variant: Variant, port: int, agent_port: int) -> str:
    """Return a patchbay.toml with one agent, the echo on `agent_port`, and slots for every call."""
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
    """Return a configuration file with these tables."""
    lines: list[str] = []
    for head, settings in tables:
        # JSON's strings, numbers, booleans and lists of them are TOML's too.
        lines += [head, *(f"{key} = {json.dumps(value)}" for key, value in settings.items()), ""]
    return "\n".join(lines)


def status(port: int) -> dict[str, object]:
    """Return a running gateway's /status. Raises StartError if it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=3) as answer:
            status: dict[str, object] = json.load(answer)
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise StartError(f"no /status on port {port}: {error}") from error
    return status


def accelerator_runs(status: Mapping[str, object]) -> bool:
    """Return True if a gateway's /status names an accelerator."""
    return status.get("accelerator") not in (None, False, "", "off", "none", "python")
