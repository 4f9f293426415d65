# SPDX-License-Identifier: BSD-2-Clause
"""The public API's costs beside nginx, which passes the same requests to the same agent.

Requests to a session that runs (the Session API), and starts. Each is measured at a pace that everybody keeps
up with, for its CPU and its delay, and as fast as one core goes.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender, template, toml
from benchmarks.load import Generator
from benchmarks.processes import process_tree
from gateway.simulator.server_process import StartError

PUBLIC_KEY = "pk_bench_4f9c1c0e7d0b4f3c8a2d5e6f"
AGENT = "echo"
CONNECTIONS = 16  # that are kept to the contender
LARGE_BYTES = 65536


@dataclass(frozen=True, slots=True)
class ApiPlan:
    """The plan of a measurement; all times in seconds.

    `paced_s`, `full_s`: the windows at the pace, and as fast as it goes; each after `warm_up_s`. After
    `budget_s` nothing is begun; what was begun may take 8 s more.
    """

    rounds: int
    warm_up_s: float
    paced_s: float
    full_s: float
    budget_s: float


FULL = ApiPlan(rounds=3, warm_up_s=0.15, paced_s=1.1, full_s=0.7, budget_s=92)
QUICK = ApiPlan(rounds=1, warm_up_s=0.1, paced_s=0.5, full_s=0.3, budget_s=17)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One request. `path` may name `{session}`, a session that runs. `rate`: of the pace, requests a second.

    `echo`: whether the request's body has to come back.
    """

    name: str
    method: str
    path: str
    rate: int
    body: bytes = b""
    echo: bool = False

    def request(self, session_id: str) -> bytes:
        """Return the request as it is sent to each contender."""
        lines = [
            f"{self.method} {self.path.replace('{session}', session_id)} HTTP/1.1",
            "Host: gateway.bench",
            f"Authorization: Bearer {PUBLIC_KEY}",
            "User-Agent: bench",
            "Accept: */*",
        ]
        if self.body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(self.body)}"]
        return "\r\n".join((*lines, "", "")).encode() + self.body


START = f"/v1/public/{AGENT}/start"
SESSION = f"/v1/public/{AGENT}/sessions/{{session}}"
SCENARIOS = (
    Scenario("api, session GET", "GET", f"{SESSION}/status?verbose=1", 200),
    Scenario(
        "api, session POST 64 KiB",
        "POST",
        f"{SESSION}/api/documents",
        100,
        json.dumps("x" * (LARGE_BYTES - 2)).encode(),
        echo=True,
    ),
    Scenario("api, start websocket", "POST", START, 100, b'{"transport": "websocket", "body": {"id": 4711}}'),
    Scenario("api, start bot", "POST", START, 100, b'{"body": {"id": 4711}}'),
)


@dataclass(frozen=True, slots=True)
class ApiReport:
    """httpload's report of one run. `waiting`: requests without an answer when the window ended."""

    window: float
    answered: int
    wrong: int
    waiting: int
    cpu_seconds: float
    generator_load: float
    generator_cpu_seconds: float
    p50_us: float
    p99_us: float
    max_us: float

    @property
    def cpu_us(self) -> float:
        """CPU of the contender's processes, in microseconds a request."""
        return self.cpu_seconds / self.answered * 1e6

    @property
    def per_second(self) -> float:
        """Requests answered in a second."""
        return self.answered / self.window

    @property
    def cores_used(self) -> float:
        """CPU seconds a second of the contender."""
        return self.cpu_seconds / self.window


@dataclass(frozen=True, slots=True)
class Pair:
    """One contender's two runs: at the pace, and as fast as it goes."""

    paced: ApiReport
    full: ApiReport


@dataclass(frozen=True, slots=True)
class ApiResult:
    """One scenario in one round. `nginx`: right before and after. None: a run failed, `error` says how."""

    scenario: str
    round: int
    ours: Pair | None
    nginx: tuple[Pair | None, Pair | None]
    error: str = ""

    def line(self) -> str:
        """Return the result as one line of JSON."""
        return json.dumps(asdict(self))

    @property
    def neighbours(self) -> list[Pair]:
        """Return nginx's runs before and after, if both exist."""
        found = [pair for pair in self.nginx if pair]
        return found if len(found) == len(self.nginx) else []


def nginx(port: int, agent_port: int) -> Contender:
    """The yardstick: it passes a session's requests on to the agent's path, and a start to its /bot."""
    return Contender(
        "nginx",
        f"http://127.0.0.1:{port}",
        port,
        ("nginx", "-c", "@DIR@/nginx-api.conf"),
        template("nginx-api.conf", port, agent_port),
    )


def patchbay(port: int, agent_port: int) -> Contender:
    """The gateway as anywhere, with one worker; only the limits of requests and places are out of the way."""
    text = toml(
        [
            ("[server]", {"host": "127.0.0.1", "port": port, "workers": 1, "drain_timeout": 0}),
            ("[limits]", {"requests_per_second": 100_000, "requests_burst": 100_000}),
            ("[store]", {"url": "sqlite:///@DIR@/patchbay.db"}),
            ("[[organizations]]", {"name": "bench", "public_keys": [PUBLIC_KEY]}),
            (
                "[[agents]]",
                {
                    "name": AGENT,
                    "organization": "bench",
                    "region": "us-west",
                    "instances": [f"http://127.0.0.1:{agent_port}"],
                    "sessions_per_instance": 20000,
                    "max_agents": 50,
                    "websocket_auth": "token",
                },
            ),
        ]
    )
    return Contender(
        "patchbay",
        f"http://127.0.0.1:{port}",
        port,
        (sys.executable, "-m", "gateway", "serve", "--config", "@DIR@/patchbay.toml"),
        {"patchbay.toml": text},
        ready_path="/readyz",
    )


@dataclass(slots=True)
class ApiBench:
    """One execution. `record`: called with each result. `directory`: for request files."""

    plan: ApiPlan
    load: Generator
    scenarios: Sequence[Scenario]
    ports: Sequence[int]
    directory: Path
    record: Callable[[ApiResult], None]

    def measure(self) -> bool:
        """Measure everything of the plan; return True if its time sufficed. Raises StartError."""
        began = time.monotonic()
        yardstick = nginx(self.ports[0], self.load.agent_port)
        gateway = patchbay(self.ports[1], self.load.agent_port)
        for round_ in range(self.plan.rounds):
            with ExitStack() as stack:
                theirs = stack.enter_context(yardstick.running())
                ours = stack.enter_context(gateway.running())
                session_id = lasting_session(gateway)
                for scenario in self.scenarios:
                    if time.monotonic() - began > self.plan.budget_s:
                        return False
                    file = self.directory / "request"
                    file.write_bytes(scenario.request(session_id))
                    before = self._pair(scenario, file, yardstick, theirs)
                    pair = self._pair(scenario, file, gateway, ours)
                    error = "" if pair else self.load.last_error
                    after = self._pair(scenario, file, yardstick, theirs)
                    self.record(ApiResult(scenario.name, round_, pair, (before, after), error))
        return True

    def _pair(self, scenario: Scenario, file: Path, contender: Contender, pids: Sequence[int]) -> Pair | None:
        paced = self._run(scenario, file, contender, pids, self.plan.paced_s, scenario.rate)
        full = self._run(scenario, file, contender, pids, self.plan.full_s, 0) if paced else None
        return Pair(paced, full) if paced and full else None

    def _run(
        self,
        scenario: Scenario,
        file: Path,
        contender: Contender,
        pids: Sequence[int],
        seconds: float,
        rate: int,
    ) -> ApiReport | None:
        arguments = ["--port", str(contender.port), "--request", str(file), "--connections", str(CONNECTIONS)]
        arguments += ["--seconds", str(seconds), "--warm-up", str(self.plan.warm_up_s), "--rate", str(rate)]
        arguments += ["--spin", "--watch", ",".join(map(str, pids)), *(["--echo"] if scenario.echo else [])]
        values = self.load.run_once(arguments)
        if values is None:
            return None
        report = report_of(values)
        if report.wrong or not report.answered:
            self.load.last_error = f"{report.wrong} of {report.answered} answers were wrong"
            return None
        if process_tree(pids[0]) != list(pids):
            self.load.last_error = "a process of the contender was started or lost during the run"
            return None
        return report


def report_of(values: dict[str, Any]) -> ApiReport:
    """Return the report in httpload's line."""
    return ApiReport(**{field.name: values[field.name] for field in fields(ApiReport)})


def lasting_session(gateway: Contender) -> str:
    """Start a session that lasts; return its id. Raises StartError."""
    request = urllib.request.Request(
        gateway.url + START,
        data=b'{"body": {"do": "hold"}}',
        headers={"Authorization": f"Bearer {PUBLIC_KEY}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            session_id: str = json.load(answer)["sessionId"]
    except (OSError, urllib.error.URLError, ValueError, KeyError) as error:
        raise StartError(f"no session starts: {error}") from error
    return session_id
