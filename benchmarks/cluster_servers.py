# SPDX-License-Identifier: BSD-2-Clause
"""The servers of the cluster's measurements: a real redis-server, gateways on either store, lost replies."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from benchmarks.contenders import LOAD_CORE, PROXY_CORE, Contender, Setting, toml
from benchmarks.processes import START_LIMIT_S, answers, end, free_ports, on_cores
from gateway.config.process_settings import Server
from gateway.simulator.server_process import PATCHBAY, ServerProcess, StartError

START_S: Final = 10.0
KEY: Final = "sk_bench_0123456789abcdef"
AGENT: Final = "echo.bench"
SECRET: Final = "bench-secret-bench-secret-bench-secret"


class RedisServer:
    """A `redis-server` of its own on the core of the load; it writes no files."""

    def __init__(self, first_port: int) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise StartError("redis-server not found. On Debian, as root: apt-get install redis-server")
        self._directory = tempfile.TemporaryDirectory(prefix="patchbay-bench-")
        (self.port,) = free_ports(first_port, 1)
        where = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._directory.name)
        with on_cores({LOAD_CORE}):
            self.process = subprocess.Popen(
                [program, *where, "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL
            )
        self.client = redis.Redis(port=self.port, decode_responses=True, protocol=2)
        give_up = time.monotonic() + START_S
        while True:
            with contextlib.suppress(redis.RedisError):
                self.client.ping()
                return
            if self.process.poll() is not None or time.monotonic() > give_up:
                raise StartError("redis-server does not start")
            time.sleep(0.02)

    @property
    def url(self) -> str:
        """The URL of its database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def version(self) -> str:
        """Return the server's version."""
        return str(self.client.info("server")["redis_version"])

    def microseconds(self, *commands: str) -> tuple[float, int]:
        """Return the microseconds that these commands took since the last reset, and how many they were."""
        stats = self.client.info("commandstats")
        found = [stats.get(f"cmdstat_{name}", {"usec": 0, "calls": 0}) for name in commands]
        return sum(each["usec"] for each in found), sum(each["calls"] for each in found)

    def active(self, agent: str = AGENT) -> int:
        """Return the number of an agent's sessions that have a slot."""
        return int(self.client.zcard(f"{{patchbay}}:agent:{agent}:active"))

    def active_sessions(self, agent: str = AGENT) -> list[str]:
        """Return the ids of an agent's sessions that have a slot."""
        found: Any = self.client.zrange(f"{{patchbay}}:agent:{agent}:active", 0, -1)
        return [str(each).partition(":")[2] for each in found]

    def close(self) -> None:
        """End it."""
        self.client.close()
        end(self.process)
        self._directory.cleanup()


@dataclass(frozen=True, slots=True)
class Site:
    """What a gateway of these measurements has: its store's URL, its ports, its agent."""

    store: str
    port: int
    agent_port: int
    agent: Mapping[str, Setting] = field(default_factory=dict)
    server: Mapping[str, Setting] = field(default_factory=dict)
    tables: tuple[tuple[str, Mapping[str, Setting]], ...] = ()
    prefix: Sequence[str] = ()


def gateway(name: str, site: Site) -> Contender:
    """Return a gateway with one worker on the contenders' core, as an operator runs it."""
    server = {"host": "127.0.0.1", "port": site.port, "workers": 1, **site.server}
    agent = {
        "name": "echo",
        "organization": "bench",
        "region": "us-west",
        "instances": [f"http://127.0.0.1:{site.agent_port}"],
        "sessions_per_instance": 20000,
        "max_agents": 50,
        **site.agent,
    }
    text = toml(
        [
            ("[server]", server),
            ("[store]", {"url": site.store}),
            ("[[organizations]]", {"name": "bench", "private_keys": [KEY]}),
            ("[[agents]]", agent),
            *site.tables,
        ]
    )
    return Contender(
        name,
        f"ws://127.0.0.1:{site.port}/ws/twilio",
        site.port,
        (*site.prefix, *PATCHBAY, "serve", "--config", "@DIR@/patchbay.toml"),
        {"patchbay.toml": text},
        {},
        ("--parameter", f"_pipecatCloudServiceHost={AGENT}"),
        "/readyz",
        cores=(PROXY_CORE,),
    )


class LosingProxy:
    """A way to the server on which, once armed, every `every`-th script is done and its reply lost."""

    def __init__(self, port: int, every: int) -> None:
        self._target = port
        self._every = every
        self._seen = 0
        self.armed = False
        self.lost = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._started.wait()

    @property
    def url(self) -> str:
        """The URL of the server behind it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        answers = asyncio.create_task(_copy(from_server, writer))
        try:
            while data := await reader.read(65536):
                to_server.write(data)
                self._seen += data.count(b"EVALSHA") if self.armed else 0
                if self._seen >= self._every:
                    self._seen = 0
                    self.lost += 1
                    answers.cancel()
                    await asyncio.wait([answers])
                    await from_server.read(65536)  # it is done
                    break
        except OSError:
            pass
        finally:
            answers.cancel()
            writer.close()
            to_server.close()

    def close(self) -> None:
        """Take no more connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)


def elsewhere(name: str) -> tuple[str, ...]:
    """Return words before a command that let it think it runs on another machine; none where not allowed."""
    if shutil.which("unshare") is None:
        return ()
    asked = subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False)
    if asked.returncode != 0:
        return ()
    return ("unshare", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "sh")


def start_seconds(site: Site, directory: Path) -> float:
    """Start a gateway and end it again; return the seconds until it was ready. Raises StartError."""
    contender = gateway("start", site)
    file = directory / "start.toml"
    file.write_text(contender.files["patchbay.toml"])
    command = [word.replace("@DIR@/patchbay.toml", str(file)) for word in contender.command]
    began = time.monotonic()
    with on_cores({PROXY_CORE}):
        server = ServerProcess("start", command, directory / "start.log", start_timeout=START_LIMIT_S)
    try:
        server.wait_until_ready(lambda: answers(site.port, "/readyz"))
        return time.monotonic() - began
    finally:
        end(server.process)


def node_settings(port: int) -> dict[str, Setting]:
    """Return what a node needs of [server] so that others reach it; nothing where this gateway has none."""
    if "node_url" not in Server.model_fields:
        return {}
    return {"node_url": f"http://127.0.0.1:{port}", "node_secret": SECRET}


@contextlib.contextmanager
def nodes(sites: Sequence[Site], names: str = "node") -> Iterator[list[tuple[Contender, list[int]]]]:
    """Run gateways; give each with the ids of its processes."""
    with contextlib.ExitStack() as stack:
        running = []
        for number, site in enumerate(sites, 1):
            contender = gateway(f"{names} {number}", site)
            running.append((contender, stack.enter_context(contender.running())))
        yield running
