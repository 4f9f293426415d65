# SPDX-License-Identifier: BSD-2-Clause
"""The gateway as its operator has it: the real command, a file of settings, a port, logs, a store."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.harness.caller import Caller, dial
from tests.harness.peer import WAIT_S

PATCHBAY = Path(sys.executable).with_name("patchbay")
POLL_S = 0.002
LISTEN = "0A"
"""The state in /proc/net/tcp (proc_net_tcp(5))."""
END_EVENTS = ("call ended", "call refused", "call not begun")


def toml(tables: dict[str, Any]) -> str:
    """Settings as TOML: a table per dict, an array of tables per list of dicts (JSON's values are TOML's)."""
    lines: list[str] = []
    for name, table in tables.items():
        for one in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{key} = {_inline(value)}" for key, value in one.items()]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    """A value in one line; a dict as an inline table."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def newest(gateway: Gateway, before: int) -> Callable[[], list[dict[str, Any]]]:
    """The ends since there were `before`, to wait for."""
    return lambda: gateway.ends()[before:]


async def eventually(happened: Callable[[], Any], what: str) -> Any:
    """Waits until it has happened, and gives what it gave; fails in words where it never does."""
    deadline = time.monotonic() + WAIT_S
    while not (found := happened()):
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(POLL_S)
    return found


class Gateway:
    """A running gateway process of ours."""

    def __init__(
        self,
        directory: Path,
        settings: dict[str, Any],
        *,
        accelerator: str = "on",
        replace: Gateway | None = None,
    ) -> None:
        """`accelerator`: "off" carries frames in Python also where the C file was built.

        `replace`: takes the port over from this one, and shares its store.
        """
        self.directory = directory
        server: dict[str, Any] = {"port": 0, "log_format": "json", "log_level": "info", "drain_timeout": 10}
        settings = {**settings, "server": server | settings.get("server", {})}
        settings.setdefault("store", {"url": f"sqlite:///{directory}/patchbay.db"})
        # Frames are compared one by one, and on a busy machine a test may take until the next ping, or until
        # a caller is held: neither may stand between them where a test does not ask for it. Nor is a carrier
        # waited for whose socket a test resets.
        settings["limits"] = {"ping_interval": 0, "agent_silence": 0, "reconnect_timeout": 0} | settings.get(
            "limits", {}
        )
        settings["agents"] = [
            agent if any(key.startswith("hold") for key in agent) else {**agent, "hold": "none"}
            for agent in settings.get("agents", [])
        ]
        self.store = directory / "patchbay.db"
        self.tls = "tls_certificate" in settings["server"]
        more: list[str] = []
        if replace is not None:
            settings["server"]["port"] = replace.port
            settings["store"] = {"url": f"sqlite:///{replace.store}"}
            self.store = replace.store
            more = ["--replace", str(replace.process.pid)]
        (directory / "patchbay.toml").write_text(toml(settings))
        self._log = directory / "patchbay.log"
        self._log_read = 0
        self._lines: list[dict[str, Any]] = []
        self.callers: list[Caller] = []
        self.upgrades = 0
        """How many it was asked for: each is told once, by a line of its own."""
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [PATCHBAY, "serve", "--config", directory / "patchbay.toml", *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("PATCHBAY_")},
                    "PATCHBAY_ACCELERATOR": accelerator,
                },
            )
        self.port = 0

    def wait_until_ready(self, workers: int = 1) -> Gateway:
        """Until it says its port and answers /readyz, and each of several workers listens."""
        deadline = time.monotonic() + WAIT_S * 2
        while True:
            assert self.process.poll() is None, f"it ended: {self._log.read_text()}"
            assert time.monotonic() < deadline, f"it never was ready: {self._log.read_text()}"
            try:
                if self._said_port() and self.listening() == workers and self.get("/readyz")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(POLL_S)

    def _said_port(self) -> bool:
        said = [line for line in self.log_lines() if line["event"] == "patchbay"]
        if said:
            self.port = int(said[0]["address"].rpartition(":")[2])
        return bool(said)

    def listening(self) -> int:
        """How many sockets listen on its port: each worker has its own."""
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[1].endswith(f":{self.port:04X}") and row[3] == LISTEN for row in rows)

    # What an operator sees

    def log_lines(self) -> list[dict[str, Any]]:
        """Every whole line of the log so far."""
        with self._log.open("rb") as log:
            log.seek(self._log_read)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._log_read += len(whole)
        for line in whole.decode().splitlines():
            self._lines.append(json.loads(line) if line.startswith("{") else {"event": line})
        return self._lines

    def ends(self) -> list[dict[str, Any]]:
        """The lines that tell a call's end."""
        return [line for line in self.log_lines() if line["event"] in END_EVENTS]

    @property
    def continued(self) -> int:
        """How many upgrades became part of a call that ran already; such a one has no end of its own."""
        return sum(line["event"] == "call continued" for line in self.log_lines())

    def get(self, path: str, host: str = "127.0.0.1") -> tuple[int, Any]:
        """Status and JSON of a plain request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        if self.tls:
            anybody = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=WAIT_S, context=anybody)
        try:
            connection.request("GET", path, headers={"Host": host})
            answer = connection.getresponse()
            body = answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        try:
            return answer.status, json.loads(body)
        except ValueError:
            return answer.status, body

    def status(self) -> dict[str, Any]:
        """`GET /status`."""
        status, answer = self.get("/status")
        assert status == 200
        return dict(answer)

    def sessions(self, session: str | None = None) -> list[dict[str, Any]]:
        """The records in the store, the oldest first; with `session` the one of this id."""
        where, values = ("", ()) if session is None else ("WHERE id = ?", (session,))
        return self._rows(f"SELECT * FROM session {where} ORDER BY number", values)

    def workers(self) -> list[dict[str, Any]]:
        """The worker processes that the store knows."""
        return self._rows("SELECT * FROM owner ORDER BY id", ())

    def _rows(self, query: str, values: tuple[str, ...]) -> list[dict[str, Any]]:
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
        """The memory of the process."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    # What a carrier does

    async def dial(self, target: str, **how: Any) -> Caller:
        """Asks for a media socket."""
        self.upgrades += 1
        return await dial(self.port, target, on_open=self.callers, **how)

    async def callers_leave(self) -> None:
        while self.callers:
            await self.callers.pop().leave()

    # Its end

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Waits for the process to end; its exit status."""
        return self.process.wait(WAIT_S * 2)

    async def ended(self) -> int:
        """The same, while the test's own loop goes on."""
        await eventually(lambda: self.process.poll() is not None, "the gateway ends")
        return self.process.returncode

    def end(self) -> None:
        """Ends it as an operator does. No call may be left, and each must have been told once."""
        if self.process.poll() is None:
            self.terminate()
            try:
                status = self.wait()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"it does not end: {self._log.read_text()[-4000:]}") from None
            assert status == 0, self._log.read_text()[-4000:]
        told = [line["session"] for line in self.ends()]
        assert len(told) == len(set(told)) == self.upgrades - self.continued, "each call's end is told once"
        wrong = [line for line in self.log_lines() if line["event"] == "internal error"]
        assert not wrong, wrong
