# SPDX-License-Identifier: BSD-2-Clause
"""A gateway as its operator has it: `patchbay serve`, its configuration, its log and its store."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import ssl
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from gateway.simulator.free_ports import LOOPBACK
from gateway.simulator.server_process import (
    PATCHBAY,
    STOP_TIMEOUT_S,
    RunningProcess,
    ServerProcess,
    environment_without_settings,
)
from gateway.simulator.waiting import WAIT_S, wait_until

TCP_LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp (proc_net_tcp(5))."""

TCP_TABLE = Path("/proc/net/tcp")

END_EVENTS = ("call ended", "call refused", "call not begun")
"""Log events of which each call, accepted or refused, has exactly one."""

Tables = Mapping[str, Any]


def to_toml(tables: Tables) -> str:
    """Return settings as TOML: a table per dict, an array of tables per list of dicts."""
    lines: list[str] = []
    for name, content in tables.items():
        is_array = isinstance(content, list)
        for table in content if is_array else [content]:
            lines.append(f"[[{name}]]" if is_array else f"[{name}]")
            lines += [f"{key} = {_inline(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    """Return a value in one line, a dict as an inline table. JSON's scalars are TOML's."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


class GatewayProcess:
    """A running `patchbay serve`. `with` waits until it is ready, and stops it at the end of the block.

    Files go to `directory`: `patchbay.toml`, `patchbay.log` and, unless `settings` name another store,
    `patchbay.db`. `port` is known once it is ready.
    """

    def __init__(
        self,
        directory: Path,
        settings: Tables,
        *,
        command: Sequence[str | Path] = PATCHBAY,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        log_path: Path | None = None,
        start: Callable[..., RunningProcess] = subprocess.Popen,
    ) -> None:
        """Start the gateway with the tables of `settings` (docs/configuration.md).

        Without a port it takes a free one. `command`: what stands for `patchbay`. `arguments`: more of
        `patchbay serve`. `environment`: variables added to ours. `start`: see ServerProcess.
        """
        self.directory = directory
        server = {"port": 0, "log_format": "json"} | dict(settings.get("server", {}))
        store = {"url": f"sqlite:///{directory}/patchbay.db"} | dict(settings.get("store", {}))
        self.store = Path(str(store["url"]).removeprefix("sqlite:///"))
        self.tls = "tls_certificate" in server
        self.worker_count = int(server.get("workers", 1))
        self.port = 0
        config = directory / "patchbay.toml"
        config.write_text(to_toml({**settings, "server": server, "store": store}))
        self._log_lines: list[dict[str, Any]] = []
        self._log_offset = 0
        self._server = ServerProcess(
            "the gateway",
            [*command, "serve", "--config", config, *arguments],
            log_path or directory / "patchbay.log",
            cwd=directory,
            environment=environment_without_settings(**(environment or {})),
            start=start,
        )

    @property
    def process(self) -> RunningProcess:
        """The process; with several workers their parent."""
        return self._server.process

    @property
    def url(self) -> str:
        """The base URL of the HTTP API."""
        return f"http{'s' if self.tls else ''}://{LOOPBACK}:{self.port}"

    @property
    def media_url(self) -> str:
        """The base URL of media sockets, to which `/ws/CARRIER` is added."""
        return f"ws{'s' if self.tls else ''}://{LOOPBACK}:{self.port}"

    # Start

    def wait_until_ready(self, workers: int | None = None) -> Self:
        """Block until it serves: `/readyz` is answered with 200, and each worker listens.

        Raises StartError.
        """
        count = self.worker_count if workers is None else workers
        self._server.wait_until_ready(lambda: self._is_ready(count))
        return self

    async def ready(self) -> Self:
        """Wait as `wait_until_ready` does, without blocking the event loop. Raises StartError."""
        await self._server.ready(lambda: self._is_ready(self.worker_count))
        return self

    def _is_ready(self, workers: int) -> bool:
        started = [line for line in self.log_lines() if line["event"] == "patchbay"]
        if not started:
            return False
        self.port = int(started[0]["address"].rpartition(":")[2])
        try:
            return (workers == 1 or self.listening() == workers) and self.get("/readyz")[0] == 200
        except OSError:
            return False

    def listening(self) -> int:
        """Return how many sockets listen on its port: one a worker. Linux only."""
        rows = [row.split() for row in TCP_TABLE.read_text().splitlines()[1:]]
        return sum(row[1].endswith(f":{self.port:04X}") and row[3] == TCP_LISTEN for row in rows)

    # Observation

    def log_lines(self) -> list[dict[str, Any]]:
        """Return every complete line of the log so far; a line that is not JSON as `{"event": LINE}`."""
        with self._server.log_path.open("rb") as log:
            log.seek(self._log_offset)
            data = log.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._log_offset += len(complete)
        for line in complete.decode().splitlines():
            self._log_lines.append(json.loads(line) if line.startswith("{") else {"event": line})
        return self._log_lines

    def log_text(self) -> str:
        """Return the log as text."""
        return self._server.log_text()

    def ends(self) -> list[dict[str, Any]]:
        """Return the log lines of calls' ends, in order."""
        return [line for line in self.log_lines() if line["event"] in END_EVENTS]

    def get(self, path: str, host: str = LOOPBACK) -> tuple[int, Any]:
        """Send a GET request without credentials; return the status, and the body parsed if it is JSON.

        `host`: the `Host` header. Raises OSError if there is no complete response.
        """
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=WAIT_S)
        if self.tls:
            any_certificate = ssl._create_unverified_context()  # noqa: S323 - a test's own certificate
            connection = http.client.HTTPSConnection(
                LOOPBACK, self.port, timeout=WAIT_S, context=any_certificate
            )
        try:
            connection.request("GET", path, headers={"Host": host})
            response = connection.getresponse()
            body = response.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        try:
            return response.status, json.loads(body)
        except ValueError:
            return response.status, body

    def sessions(self, session_id: str | None = None) -> list[dict[str, Any]]:
        """Return the session records of the store, oldest first; with `session_id` only that one."""
        if session_id is None:
            return self.rows("SELECT * FROM session ORDER BY number")
        return self.rows("SELECT * FROM session WHERE id = ?", (session_id,))

    def ended_session(self, call_id: str) -> dict[str, Any]:
        """Block until the session of a carrier's call has ended; return its record.

        Raises AssertionError after WAIT_S.
        """
        query = "SELECT * FROM session WHERE call_id = ? AND ended_at IS NOT NULL"
        return wait_until(lambda: self.rows(query, (call_id,)), f"the session of call {call_id} ends")[0]

    def workers(self) -> list[dict[str, Any]]:
        """Return the store's records of worker processes."""
        return self.rows("SELECT * FROM owner ORDER BY id")

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
        """Return the rows of a query on the SQLite store, none if it has not been created."""
        if not self.store.exists():
            return []
        connection = sqlite3.connect(f"file:{self.store}?mode=ro", uri=True, timeout=WAIT_S)
        try:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query, values)]
        finally:
            connection.close()

    @property
    def resident_bytes(self) -> int:
        """Resident memory of the process in bytes. Linux only."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    # End

    def terminate(self) -> None:
        """Send SIGTERM: the gateway drains, then ends."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Block until the process ends; return its exit status. Raises subprocess.TimeoutExpired."""
        return self.process.wait(STOP_TIMEOUT_S)

    def stop(self) -> int:
        """Send SIGTERM, after STOP_TIMEOUT_S SIGKILL, and return the exit status."""
        return self._server.stop()

    def __enter__(self) -> Self:
        try:
            return self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            return await self.ready()
        except BaseException:
            await self._server.__aexit__(None, None, None)
            raise

    async def __aexit__(self, *_: object) -> None:
        await self._server.__aexit__(None, None, None)
