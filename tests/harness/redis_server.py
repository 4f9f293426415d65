# SPDX-License-Identifier: BSD-2-Clause
"""A Redis server of the tests, one for each process that runs tests."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.simulator.waiting import WAIT_S

BUS_OFFSET = 10_000
"""Nodes of a cluster talk to each other on a port that is so much higher."""


def free_port(*, of_cluster: bool) -> int:
    """Return a port that nobody listens on. `of_cluster`: nor on that of its bus."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
            if not of_cluster:
                return port
            with contextlib.suppress(OSError, OverflowError):
                socket.create_server(("127.0.0.1", port + BUS_OFFSET)).close()
                return port


class RedisServer:
    """A `redis-server` process on 127.0.0.1 that writes no files."""

    def __init__(self, *options: str, password: str = "") -> None:
        """`options`: of the command line. `password`: of its only user."""
        program = shutil.which("redis-server")
        assert program, "the tests need redis-server: apt-get install redis-server"
        self.port = free_port(of_cluster="--cluster-enabled" in options)
        self._directory = tempfile.TemporaryDirectory(prefix="patchbay-redis-")
        self.directory = Path(self._directory.name)
        self.password = password
        self._options = (
            (*options, "--requirepass", password, "--masterauth", password) if password else options
        )
        self._program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self, *more: str) -> None:
        """Start it, empty, and wait until it answers. `more`: options."""
        command = [self._program, *self.arguments(), *more]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as client:
                    client.sendall(b"PING\r\n")
                    if client.recv(100).startswith((b"+PONG", b"-NOAUTH")):
                        return
            except OSError:
                assert self.process.poll() is None, "redis-server does not start"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def arguments(self) -> list[str]:
        """Return the command line behind the program."""
        fixed = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory))
        nothing_kept = ("--save", "", "--appendonly", "no")
        return [*fixed, *nothing_kept, *self._options]

    def run(self, *command: str | int | bytes) -> Any:
        """Run one command; return what redis-py makes of the answer, as text."""
        with self._client(decode_responses=True) as client:
            return client.execute_command(*command)

    def text(self, *command: str) -> str:
        """Run one command; return the text that it answers with, as it is sent."""
        with self._client() as client:
            for name in ("INFO", "CLUSTER INFO", "CLUSTER NODES"):
                client.set_response_callback(name, bytes.decode)
            return str(client.execute_command(*command))

    def _client(self, **options: Any) -> Any:
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            password=self.password or None,
            socket_timeout=WAIT_S,
            retry=Retry(NoBackoff(), 0),
            **options,
        )

    def own_all_slots(self) -> None:
        """Make one server, started in cluster mode, a whole cluster."""
        self.ask("CLUSTER ADDSLOTSRANGE 0 16383")
        deadline = time.monotonic() + WAIT_S
        while "cluster_state:ok" not in self.ask("CLUSTER INFO"):
            assert time.monotonic() < deadline, "the cluster does not come up"
            time.sleep(0.01)

    def ask(self, command: str) -> str:
        """Run one command; return the start of what is answered."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as client:
            client.sendall(f"{command}\r\n".encode())
            return client.recv(65536).decode()

    def load(self, script: str) -> None:
        """Make a Lua script known."""
        raw = script.encode()
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as client:
            client.sendall(b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$%d\r\n%b\r\n" % (len(raw), raw))
            assert client.recv(100).startswith(b"$40")

    def kill(self) -> None:
        """End it at once, as a power failure would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it for good."""
        self.kill()
        self._directory.cleanup()

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"


_shared: list[RedisServer] = []
_locations: list[Path] = []


def url_of(location: Path) -> str:
    """Return the URL of an empty store for a location, until another location is given.

    It is a server of this process, in cluster mode: there a script that touches a key without saying so, or
    keys of two slots, is refused.
    """
    if not _shared:
        _shared.append(server := RedisServer("--cluster-enabled", "yes"))
        atexit.register(server.stop)
        server.own_all_slots()
    if location not in _locations:
        _shared[0].run("FLUSHALL")
        _locations[:] = [location]
    return _shared[0].url()
