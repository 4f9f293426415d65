# SPDX-License-Identifier: BSD-2-Clause
"""A Redis server of the tests, one for each process that runs tests, with a database for each test."""

from __future__ import annotations

import atexit
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from gateway.simulator.waiting import WAIT_S

DATABASES = 2000


class RedisServer:
    """A `redis-server` process on 127.0.0.1 that writes no files."""

    def __init__(self, *options: str) -> None:
        program = shutil.which("redis-server")
        assert program, "the tests need redis-server: apt-get install redis-server"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._directory = tempfile.TemporaryDirectory(prefix="patchbay-redis-")
        self._options = options
        self._program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        fixed = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._directory.name)
        nothing_kept = ("--save", "", "--appendonly", "no", "--databases", str(DATABASES))
        self.process = subprocess.Popen(
            [self._program, *fixed, *nothing_kept, *self._options], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as client:
                    client.sendall(b"PING\r\n")
                    if client.recv(100).startswith(b"+PONG"):
                        return
            except OSError:
                assert self.process.poll() is None, "redis-server does not start"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

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
_databases: dict[Path, int] = {}


def url_of(location: Path) -> str:
    """Return the URL of a database of its own for each location, on the server of this process."""
    if not _shared:
        _shared.append(server := RedisServer())
        atexit.register(server.stop)
    database = _databases.setdefault(location, len(_databases))
    return _shared[0].url(database)
