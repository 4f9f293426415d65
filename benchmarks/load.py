# SPDX-License-Identifier: BSD-2-Clause
"""The load generator wsload.c, which is the echo agent too: build it, start it, order its runs."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

from benchmarks.processes import answers, end, on_cores, pin
from gateway.simulator.server_process import StartError

RUN_LIMIT_S = 45.0  # a set-up that stalls is given up by wsload itself after 30 s
AGENT_LIMIT_S = 5.0
WARM_UP_S = 0.3
KEPT_UP_P99_US = 20_000


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles of a time, in microseconds."""

    p50: float
    p90: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True, slots=True)
class Report:
    """wsload's report of one run. Names of times end in their unit; CPU times are of the watched processes.

    `window`: seconds that were measured. `cpu_per_million`: CPU seconds per million relayed messages, which
    is also microseconds per message. `cpu_each`: CPU seconds of each watched process. `generator_load`: share
    of the window in which the generator had work (`open_generator_load`: of the set-up). `lag_us`: how late
    messages were sent. `pings`: that these callers were sent in the window. `heard`: messages with sound that
    all who only listen were sent in it.
    """

    calls: int
    open_seconds: float
    open_cpu_us_per_call: float
    open_generator_load: float
    window: float
    sent: int
    received: int
    skipped: int
    wrong: int
    lost_calls: int
    clean_closes: int
    rss_idle_kb: int
    rss_kb: int
    cpu_seconds: float
    cpu_per_million: float
    generator_load: float
    generator_cpu_seconds: float
    cpu_each: tuple[float, ...]
    upgrade_us: Spread
    set_up_us: Spread
    latency_us: Spread
    lag_us: Spread
    pings: int = 0
    heard: int = 0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Report:
        """Return the report in wsload's line or in a line of results.jsonl."""
        known = {field.name for field in fields(cls)}
        spreads = {name: Spread(**values[name]) for name in known if name.endswith("_us") and name in values}
        own = {name: value for name, value in values.items() if name in known}
        return cls(**{**own, **spreads, "cpu_each": tuple(values["cpu_each"])})

    @property
    def kept_up(self) -> bool:
        """Whether every message was sent, answered rightly, and 99 of 100 answers came within 20 ms."""
        return (
            not (self.skipped or self.wrong or self.lost_calls)
            and self.latency_us.p99 <= KEPT_UP_P99_US
            and self.received >= 0.99 * self.sent
        )

    @property
    def kb_per_call(self) -> float:
        """Resident memory above idle, in KiB a call."""
        return (self.rss_kb - self.rss_idle_kb) / self.calls

    @property
    def cores_used(self) -> float:
        """CPU seconds a second of the watched processes while they relayed."""
        return self.cpu_seconds / self.window if self.window else 0.0


def build(directory: Path, name: str = "wsload") -> Path:
    """Compile `name`.c into `directory`. Raises CalledProcessError when the compiler refuses."""
    binary = directory / name
    source = Path(__file__).with_name(f"{name}.c")
    command = ["cc", "-O2", "-Wall", "-Wextra", "-o", str(binary), str(source)]
    subprocess.run(command, check=True, timeout=120)
    return binary


class Generator:
    """A load generator that is the echo agent too, and makes one run per line of its input."""

    def __init__(self, binary: Path, agent_port: int, core: int) -> None:
        self.agent_port = agent_port
        self.core = core
        self.last_error = ""  # why the latest run gave no report
        self._command = [str(binary), "--agent", str(agent_port), "--console"]
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with on_cores({self.core}):
            process = subprocess.Popen(
                self._command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
            )
        give_up = time.monotonic() + AGENT_LIMIT_S
        while not answers(self.agent_port):
            if process.poll() is not None or time.monotonic() > give_up:
                end(process)
                raise StartError(f"the echo agent does not listen on port {self.agent_port}")
            time.sleep(0.02)
        return process

    def run_once(
        self, arguments: Sequence[str], cores: Collection[int] | None = None
    ) -> dict[str, Any] | None:
        """Run once with these options; return the generator's report, or None if the run failed.

        After a failure `last_error` says why, and the generator and its agent are restarted.

        `cores`: where it runs this time, its own core by default.
        """
        pin([self._process.pid], cores or {self.core})
        line = self._ask(" ".join(arguments))
        if line:
            values: dict[str, Any] = json.loads(line)
            return values
        self._end()
        self._complaints.seek(0)
        self.last_error = self._complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
        self._complaints.seek(0)
        self._complaints.truncate()
        self._process = self._start()
        return None

    def _ask(self, arguments: str) -> bytes:
        """Return the answer to one line; empty if the generator failed or took longer than RUN_LIMIT_S."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(arguments.encode() + b"\n")
        except BrokenPipeError:
            return b""
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n") and selector.select(RUN_LIMIT_S):
                part = os.read(stdout.fileno(), 65536)
                if not part:
                    return b""
                line += part
        return line if line.endswith(b"\n") else b""

    def close(self) -> None:
        """End the generator, and with it the echo agent."""
        self._end()
        self._complaints.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait(5)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Load(Generator):
    """wsload: paced calls."""

    def run(
        self,
        url: str,
        calls: int,
        watch: Sequence[int],
        *,
        seconds: float,
        spin: bool = True,
        cores: Collection[int] | None = None,
        options: Sequence[str] = (),
    ) -> Report | None:
        """Run once; return the report, or None if the run failed and `last_error` says why.

        `seconds`: the measuring window; 0 measures the set-up alone. `spin`: poll without sleeping, which
        wants a core of its own. `cores`: where the generator runs this time, its own core by default.
        """
        arguments = ["--url", url, "--calls", str(calls), "--seconds", str(seconds)]
        arguments += ["--warm-up", str(WARM_UP_S if seconds else 0), *options]
        if spin:
            arguments.append("--spin")
        if watch:
            arguments += ["--watch", ",".join(map(str, watch))]
        values = self.run_once(arguments, cores)
        return None if values is None else Report.from_json(values)
