# SPDX-License-Identifier: BSD-2-Clause
"""The gateway under test: the kit's process, settings for tests, byte-level callers, checks at the end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gateway.simulator.gateway_process import GatewayProcess
from gateway.simulator.server_process import PATCHBAY, RunningProcess
from gateway.simulator.waiting import eventually
from tests.harness.caller import Caller, dial
from tests.harness.certificates import trust_anything

LOG_TAIL_CHARACTERS = 4000


def ends_after(gateway: Gateway, count: int) -> Callable[[], list[dict[str, Any]]]:
    """Return a condition for `eventually`: the calls' ends in the log behind the first `count`."""
    return lambda: gateway.ends()[count:]


def _settings_for_tests(settings: dict[str, Any]) -> dict[str, Any]:
    """Return `settings` with limits under which nothing happens that the test does not cause.

    Tests compare frames one by one, and on a busy machine may be slow: no ping, no hold audio, no wait for a
    carrier's next socket and no limit of silence comes between, unless the test's own settings ask for it.
    """
    server = {"log_level": "info", "drain_timeout": 30} | settings.get("server", {})
    limits = {"ping_interval": 0, "agent_silence": 0, "reconnect_timeout": 0} | settings.get("limits", {})
    agents = [
        {"idle_timeout": 600}
        | ({} if any(key.startswith("hold") for key in agent) else {"hold": "none"})
        | agent
        for agent in settings.get("agents", [])
    ]
    return {**settings, "server": server, "limits": limits, "agents": agents}


class Gateway(GatewayProcess):
    """A gateway under test. Every call that a test dials must end with one log line; `end` checks that."""

    def __init__(
        self,
        directory: Path,
        settings: dict[str, Any],
        *,
        accelerator: str = "on",
        replace: Gateway | None = None,
        command: Sequence[str | Path] = PATCHBAY,
        start: Callable[..., RunningProcess] = subprocess.Popen,
    ) -> None:
        """Start it. `accelerator`: "off" relays frames in Python even if the C module was built.

        `replace`: the gateway whose port, and store if no other is named, this one takes over.
        `command`: instead of `patchbay`. `start`: see ServerProcess.
        """
        settings = _settings_for_tests(settings)
        arguments: list[str] = []
        if replace is not None:
            settings["server"]["port"] = replace.port
            settings.setdefault("store", {"url": f"sqlite:///{replace.store}"})
            arguments = ["--replace", str(replace.process.pid)]
        super().__init__(
            directory,
            settings,
            command=command,
            arguments=arguments,
            # Every process reads the system's certificate authorities as it starts, and no test needs them.
            environment={"PATCHBAY_ACCELERATOR": accelerator, "SSL_CERT_FILE": os.devnull},
            start=start,
        )
        self.callers: list[Caller] = []
        self.upgrades = 0
        """Media sockets that tests have requested."""

    @property
    def continued(self) -> int:
        """How many upgrades joined a call that ran already; these have no end of their own."""
        return sum(line["event"] == "call continued" for line in self.log_lines())

    def status(self) -> dict[str, Any]:
        """Return the body of `GET /status`."""
        status, body = self.get("/status")
        assert status == 200
        return dict(body)

    async def dial(self, target: str, **options: Any) -> Caller:
        """Request a media socket, over TLS if the gateway has a certificate. `options`: see `caller.dial`."""
        self.upgrades += 1
        if self.tls and "over" not in options:
            options.setdefault("tls", trust_anything())
        return await dial(self.port, target, on_open=self.callers, **options)

    async def callers_leave(self) -> None:
        """Close the sockets of all callers so far."""
        while self.callers:
            await self.callers.pop().leave()

    async def ended(self) -> int:
        """Wait until the process has ended, without blocking the event loop; return its exit status."""
        await eventually(lambda: self.process.poll() is not None, "the gateway ends")
        return self.process.returncode

    def end(self) -> None:
        """Stop the gateway as an operator does.

        Raises AssertionError if it does not end with status 0, if a call's end is missing from the log or
        logged twice, or if it logged an internal error.
        """
        if self.process.poll() is None:
            self.terminate()
            try:
                status = self.wait()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"it does not end: {self.log_text()[-LOG_TAIL_CHARACTERS:]}") from None
            assert status == 0, self.log_text()[-LOG_TAIL_CHARACTERS:]
        ended = self.ends()
        assert len(ended) == self.upgrades - self.continued, "each call's end is logged once"
        # A pending session may be refused a place more than once before it runs.
        sessions = [line["session"] for line in ended if line["event"] != "call refused"]
        assert len(sessions) == len(set(sessions)), "each session's end is logged once"
        internal_errors = [line for line in self.log_lines() if line["event"] == "internal error"]
        assert not internal_errors, internal_errors
